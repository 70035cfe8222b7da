//! Weather: the ways in which a provider fails, by chance or by a request's own header.

use super::chance::Chance;
use std::time::Duration;

/// One way to fail.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
    serde::Serialize,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum WeatherKind {
    /// 429 with Retry-After.
    RateLimited,
    #[serde(rename = "500")]
    #[strum(serialize = "500")]
    InternalError,
    #[serde(rename = "503")]
    #[strum(serialize = "503")]
    Unavailable,
    #[serde(rename = "529")]
    #[strum(serialize = "529")]
    Overloaded,
    /// The connection closes without an answer.
    Refused,
    /// Nothing comes for the length of a stall, then the whole answer.
    StallBefore,
    /// Half of the answer comes, then nothing for the length of a stall, then the rest.
    StallWithin,
    /// Half of the answer comes, then the connection breaks.
    Cut,
    /// Half of a stream comes, then an error event, and the stream ends. Other answers are spared.
    ErrorWithin,
    NoUsage,
    AbsurdUsage,
    NegativeUsage,
    /// A proxy's page instead of JSON.
    Html,
}

impl WeatherKind {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// How often each kind strikes, as a part of one, and how long a stall lasts.
#[derive(Clone, Debug, PartialEq)]
pub struct Weather {
    chances: Vec<(WeatherKind, f64)>,
    pub stall: Duration,
    pub retry_after_seconds: u64,
}

impl Default for Weather {
    fn default() -> Weather {
        Weather::calm()
    }
}

impl Weather {
    /// No failures, except those that a request asks for.
    pub fn calm() -> Weather {
        Weather { chances: Vec::new(), stall: Duration::from_secs(60), retry_after_seconds: 1 }
    }

    /// Reads `rate_limited=0.02, 503=0.01, stall_ms=5000`, one pair after a comma or a line end; `#` starts a
    /// comment. Chances are parts of one and together at most 1.
    pub fn parse(text: &str) -> Result<Weather, WeatherError> {
        let mut weather = Weather::calm();
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        for pair in lines.flat_map(|line| line.split(',')).map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| WeatherError::NotAPair(pair.to_owned()))?;
            weather.set(name.trim(), value.trim())?;
        }
        let sum: f64 = weather.chances.iter().map(|(_, chance)| chance).sum();
        if sum > 1.0 {
            return Err(WeatherError::MoreThanCertain(sum));
        }
        Ok(weather)
    }

    /// What strikes this request, if anything.
    pub fn draw(&self, chance: &mut Chance) -> Option<WeatherKind> {
        let mut left = chance.unit();
        for (kind, share) in &self.chances {
            if left < *share {
                return Some(*kind);
            }
            left -= share;
        }
        None
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), WeatherError> {
        let bad_value = || WeatherError::BadValue { name: name.to_owned(), value: value.to_owned() };
        match name {
            "stall_ms" => self.stall = Duration::from_millis(value.parse().map_err(|_| bad_value())?),
            "retry_after_seconds" => self.retry_after_seconds = value.parse().map_err(|_| bad_value())?,
            _ => {
                let kind = name.parse().map_err(|_| WeatherError::Unknown(name.to_owned()))?;
                let chance: f64 = value.parse().map_err(|_| bad_value())?;
                if !(0.0..=1.0).contains(&chance) {
                    return Err(bad_value());
                }
                self.chances.push((kind, chance));
            }
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum WeatherError {
    #[error("`{0}` is not of the form name=value")]
    NotAPair(String),
    #[error(
        "`{0}` is no weather; there are rate_limited, 500, 503, 529, refused, stall_before, stall_within, cut, \
         error_within, no_usage, absurd_usage, negative_usage, html, and the settings stall_ms and \
         retry_after_seconds"
    )]
    Unknown(String),
    #[error("`{value}` is no value for {name}: chances go from 0 to 1, settings are whole numbers")]
    BadValue { name: String, value: String },
    #[error("the chances add up to {0}, which is more than 1")]
    MoreThanCertain(f64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weather_reads_from_one_line_and_from_many() {
        let inline = Weather::parse("rate_limited=0.5,503=0.25,stall_ms=20").unwrap();
        let lines =
            Weather::parse("# a bad day\nrate_limited = 0.5\n503 = 0.25 # down\n\nstall_ms = 20\n").unwrap();

        assert_eq!(inline, lines);
        assert_eq!(inline.stall, Duration::from_millis(20));
    }

    #[test]
    fn bad_weather_says_what_is_wrong() {
        assert_eq!(Weather::parse("rain=0.1"), Err(WeatherError::Unknown("rain".to_owned())));
        assert_eq!(Weather::parse("cut"), Err(WeatherError::NotAPair("cut".to_owned())));
        assert!(matches!(Weather::parse("cut=2"), Err(WeatherError::BadValue { .. })));
        assert!(matches!(Weather::parse("cut=NaN"), Err(WeatherError::BadValue { .. })));
        assert_eq!(Weather::parse("cut=0.75,500=0.5"), Err(WeatherError::MoreThanCertain(1.25)));
    }

    #[test]
    fn chances_hold_over_many_requests() {
        let weather = Weather::parse("rate_limited=0.1,cut=0.2").unwrap();
        let drawn: Vec<_> = (0..10_000).map(|number| weather.draw(&mut Chance::of(9, number))).collect();
        let share = |kind| drawn.iter().filter(|one| **one == Some(kind)).count();

        assert!((900..1_100).contains(&share(WeatherKind::RateLimited)));
        assert!((1_850..2_150).contains(&share(WeatherKind::Cut)));
        assert_eq!(share(WeatherKind::Html), 0);
    }

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in <WeatherKind as strum::VariantArray>::VARIANTS {
            assert_eq!(kind.name().parse(), Ok(*kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
