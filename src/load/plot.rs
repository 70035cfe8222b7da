//! Latencies as a picture: by percentile, and over the time of the run.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::load::LoadError;
use crate::load::pace::{Figures, Latencies};
use crate::load::report::millis;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error + Send + Sync>>;

const SIZE: (u32, u32) = (960, 860);
/// Points of a percentile's line, per nine.
const POINTS_PER_NINE: u32 = 20;
const FONT: &str = "sans-serif";
const LINE_PIXELS: u32 = 2;

/// # Errors
/// `Plot` where the file can't be written.
pub fn draw(file: &Path, figures: &Figures) -> Result<(), LoadError> {
    draw_both(file, figures).map_err(|why| LoadError::Plot(format!("{}: {why}", file.display())))
}

fn draw_both(file: &Path, figures: &Figures) -> Drawn {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (upper, lower) = root.split_vertically(SIZE.1 / 2);
    by_percentile(&upper, figures)?;
    over_time(&lower, figures)?;
    root.present()?;
    Ok(())
}

/// The axis counts nines, so that the few slow ones have the most room.
fn by_percentile(area: &Area<'_>, figures: &Figures) -> Drawn {
    let nines_max = f64::log10(figures.latency.len().max(10) as f64);
    let latencies = [
        ("from due", &figures.latency, BLUE),
        ("from sending (what a closed loop would tell)", &figures.from_sending, RED),
    ];
    let mut chart = ChartBuilder::on(area)
        .caption("Latency by percentile", (FONT, 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..nines_max, (floor(&figures.from_sending)..ceiling(figures)).log_scale())?;
    chart.configure_mesh().x_desc("percentile").y_desc("ms").x_label_formatter(&percentile).draw()?;
    for (name, latencies, colour) in latencies {
        let points = (0..=(nines_max * f64::from(POINTS_PER_NINE)) as u32).map(|point| {
            let nines = f64::from(point) / f64::from(POINTS_PER_NINE);
            (nines, shown(latencies.value_at_quantile(1.0 - 10_f64.powf(-nines))))
        });
        line(chart.draw_series(LineSeries::new(points, colour.stroke_width(LINE_PIXELS)))?, name, colour);
    }
    legend(&mut chart)
}

fn over_time(area: &Area<'_>, figures: &Figures) -> Drawn {
    let seconds = figures.slice.as_secs_f64() * figures.slices.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption("Latency from due, over time", (FONT, 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..seconds, (floor(&figures.from_sending)..ceiling(figures)).log_scale())?;
    chart.configure_mesh().x_desc("seconds").y_desc("ms").draw()?;
    for (name, quantile, colour) in [("p50", 0.5, BLUE), ("p99", 0.99, MAGENTA), ("max", 1.0, RED)] {
        let slices = figures.slices.iter().enumerate().filter(|(_, latencies)| !latencies.is_empty());
        let points = slices.map(|(place, latencies)| {
            let middle = (place as f64 + 0.5) * figures.slice.as_secs_f64();
            (middle, shown(latencies.value_at_quantile(quantile)))
        });
        line(chart.draw_series(LineSeries::new(points, colour.stroke_width(LINE_PIXELS)))?, name, colour);
    }
    legend(&mut chart)
}

fn line(series: &mut plotters::chart::SeriesAnno<'_, SVGBackend<'_>>, name: &str, colour: RGBColor) {
    series
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(LINE_PIXELS)));
}

fn legend<'a, C: CoordTranslate>(chart: &mut ChartContext<'a, SVGBackend<'a>, C>) -> Drawn {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

/// 0 is the median's left neighbour, 1 is 90 %, 2 is 99 % …
fn percentile(nines: &f64) -> String {
    let percent = 100.0 * (1.0 - 10_f64.powf(-nines));
    let digits = (nines - 2.0).ceil().max(0.0) as usize;
    format!("{percent:.digits$} %")
}

fn floor(latencies: &Latencies) -> f64 {
    shown(latencies.min()) / 2.0
}

fn ceiling(figures: &Figures) -> f64 {
    shown(figures.latency.max().max(figures.from_sending.max())) * 2.0
}

/// A logarithm needs more than nothing: what is below the measure is shown at it.
fn shown(micros: u64) -> f64 {
    millis(micros.max(1))
}
