//! `tollgate router`: makes the weights that judge the complexity of requests, and says what they are worth.
//!
//! Prompts are split by a hash of their text: one half trains, with its thresholds, the other is only ever evaluated on.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::commands::print;
use crate::domain::routing::complexity::training::{Labelled, train};
use crate::domain::routing::complexity::{self, Judgement, Level, Model, Prompt};
use crate::domain::statistics::{Interval, bootstrap};

/// Shares of the strong model's accuracy that are evaluated.
const QUALITIES: [u8; 3] = [95, 99, 100];
const SEED: u64 = 1;

#[derive(Debug, clap::Subcommand)]
pub enum ComplexityCommand {
    /// Makes weights of the first half of labelled prompts.
    Train {
        /// JSON lines: `{"bench", "prompt", "strong_ok", "weak_ok"}`.
        #[arg(long, value_name = "FILE")]
        labels: PathBuf,
        /// Where the weights go: JSON.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Says what routing by complexity saves on the half that no weight has seen, with 95 % confidence intervals.
    Evaluate {
        #[arg(long, value_name = "FILE")]
        labels: PathBuf,
        /// Weights that `train` made; those that come with Tollgate when absent.
        #[arg(long, value_name = "FILE")]
        weights: Option<PathBuf>,
        /// What a request to the weak model costs, where one to the strong model costs 1.
        #[arg(long, default_value_t = 0.06)]
        weak_price: f64,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum ComplexityError {
    #[error("{} can't be read or written: {why}", path.display())]
    File { path: PathBuf, why: io::Error },
    #[error("{}:{line}: {why}", path.display())]
    Label { path: PathBuf, line: usize, why: serde_json::Error },
    #[error("the weights of {} can't be used: {why}", path.display())]
    Weights { path: PathBuf, why: String },
    #[error("{} holds too few prompts: each half needs some that the strong model answers right", .0.display())]
    TooFew(PathBuf),
}

#[derive(Deserialize)]
struct Row {
    bench: String,
    prompt: String,
    strong_ok: bool,
    weak_ok: bool,
}

/// The labelled prompts of a file, by half.
struct Labels {
    training: Vec<(String, Labelled)>,
    held_out: Vec<(String, Labelled)>,
}

/// # Errors
/// Files that can't be read, written or understood.
pub fn run(command: &ComplexityCommand) -> Result<(), ComplexityError> {
    match command {
        ComplexityCommand::Train { labels, out } => {
            let model = train(&alone(&read(labels)?.training));
            // Numbers and names: this can't fail.
            let mut text = serde_json::to_string_pretty(&model).unwrap_or_default();
            text.push('\n');
            std::fs::write(out, text).map_err(|why| ComplexityError::File { path: out.clone(), why })?;
            print(&format!("{} has the weights of {} features\n", out.display(), model.features.len()));
        }
        ComplexityCommand::Evaluate { labels, weights, weak_price } => {
            let Labels { training, held_out } = read(labels)?;
            let model = match weights {
                None => Model::clone(complexity::shipped()),
                Some(path) => {
                    let why = |why| ComplexityError::File { path: path.clone(), why };
                    let text = std::fs::read_to_string(path).map_err(why)?;
                    Model::from_json(&text)
                        .map_err(|why| ComplexityError::Weights { path: path.clone(), why })?
                }
            };
            print(&format!("{}\n", report(&model, &training, &held_out, *weak_price)));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Labels, ComplexityError> {
    let text =
        std::fs::read_to_string(path).map_err(|why| ComplexityError::File { path: path.to_owned(), why })?;
    let mut labels = Labels { training: Vec::new(), held_out: Vec::new() };
    for (nth, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row: Row = serde_json::from_str(line).map_err(|why| ComplexityError::Label {
            path: path.to_owned(),
            line: nth + 1,
            why,
        })?;
        let half = match Sha256::digest(&row.prompt).first().copied().unwrap_or_default() % 2 {
            0 => &mut labels.training,
            _ => &mut labels.held_out,
        };
        let prompt = Prompt { text: row.prompt, ..Prompt::default() };
        let labelled = Labelled { prompt, strong_is_right: row.strong_ok, weak_is_right: row.weak_ok };
        half.push((row.bench, labelled));
    }
    let is_enough = |half: &[(String, Labelled)]| half.iter().any(|(_, one)| one.strong_is_right);
    match is_enough(&labels.training) && is_enough(&labels.held_out) {
        true => Ok(labels),
        false => Err(ComplexityError::TooFew(path.to_owned())),
    }
}

fn alone(half: &[(String, Labelled)]) -> Vec<Labelled> {
    half.iter().map(|(_, labelled)| labelled.clone()).collect()
}

fn report(
    model: &Model,
    training: &[(String, Labelled)],
    held_out: &[(String, Labelled)],
    weak_price: f64,
) -> String {
    let mut out = format!(
        "{} prompts trained the weights, {} others are evaluated; a weak call costs {weak_price} of a strong one.\n\
         Intervals are 95 % bootstrap intervals.\n\n\
         {HEAD}",
        training.len(),
        held_out.len()
    );
    let mut benches: Vec<&str> = held_out.iter().map(|(bench, _)| bench.as_str()).collect();
    benches.sort_unstable();
    benches.dedup();
    let of = |half: &[(String, Labelled)], is_wanted: &dyn Fn(&str) -> bool| -> Vec<Labelled> {
        half.iter().filter(|(bench, _)| is_wanted(bench)).map(|(_, one)| one.clone()).collect()
    };
    out += &table("all", model, &of(held_out, &|_| true), weak_price);
    for bench in &benches {
        out += &table(bench, model, &of(held_out, &|other| other == *bench), weak_price);
    }
    out += "\nWeights that have seen no prompt of the kind that is evaluated:\n\n";
    out += HEAD;
    for bench in &benches {
        let others = of(training, &|other| other != *bench);
        if !others.is_empty() {
            let model = train(&others);
            out += &table(bench, &model, &of(held_out, &|other| other == *bench), weak_price);
        }
    }
    out
}

const HEAD: &str = "| prompts | strong, weak accuracy | asked for | reached | strong calls | saved | saved by chance at the \
                    same accuracy | saved beyond chance | saved in hindsight |\n|---|---|---|---|---|---|---|---|---|\n";

/// A row for each quality: what the thresholds that were set in training bring here. What is unlike the prompts of training
/// never goes to the weak model, as in the gateway.
fn table(name: &str, model: &Model, labelled: &[Labelled], weak_price: f64) -> String {
    let judged: Vec<Judgement> = labelled.iter().map(|one| model.judge(&one.prompt)).collect();
    let right = |is: fn(&Labelled) -> bool, sample: &[usize]| {
        sample.iter().filter(|at| is(&labelled[**at])).count() as f64
    };
    let all: Vec<usize> = (0..labelled.len()).collect();
    let strong = |sample: &[usize]| right(|one| one.strong_is_right, sample);
    let weak = |sample: &[usize]| right(|one| one.weak_is_right, sample);
    let count = labelled.len() as f64;
    let mut out = String::new();
    for quality in QUALITIES {
        let goes_up = |at: usize| model.level(&judged[at], quality) > Level::Simple;
        let calls = |sample: &[usize]| sample.iter().filter(|at| goes_up(**at)).count() as f64 / count;
        let routed = |sample: &[usize]| {
            let is_right = |at: &&usize| match goes_up(**at) {
                true => labelled[**at].strong_is_right,
                false => labelled[**at].weak_is_right,
            };
            sample.iter().filter(is_right).count() as f64 / strong(sample).max(1.0)
        };
        let saved = |sample: &[usize]| (1.0 - calls(sample)) * (1.0 - weak_price);
        // Random routing sends a share of the requests up; its accuracy is on the line between the two models.
        let by_chance = |sample: &[usize]| {
            let span = strong(sample) - weak(sample);
            match span > 0.0 {
                true => {
                    let lost = (1.0 - routed(sample)) * strong(sample);
                    (lost / span).clamp(0.0, 1.0) * (1.0 - weak_price)
                }
                false => 1.0 - weak_price,
            }
        };
        let beyond_chance = |sample: &[usize]| saved(sample) - by_chance(sample);
        let percent = |value: f64| format!("{:.1} %", 100.0 * value);
        let between = |statistic: &dyn Fn(&[usize]) -> f64| {
            bootstrap(SEED, labelled.len(), statistic).map_or_else(String::new, |Interval { low, high }| {
                format!(" ({:.1}–{:.1})", 100.0 * low, 100.0 * high)
            })
        };
        let _ = writeln!(
            out,
            "| {name} ({}) | {}, {} | {quality} % | {}{} | {} | {}{} | {} | {}{} | {} |",
            labelled.len(),
            percent(strong(&all) / count),
            percent(weak(&all) / count),
            percent(routed(&all)),
            between(&routed),
            percent(calls(&all)),
            percent(saved(&all)),
            between(&saved),
            percent(by_chance(&all)),
            percent(beyond_chance(&all)),
            between(&beyond_chance),
            percent((1.0 - fewest_calls(labelled, &judged, quality)) * (1.0 - weak_price)),
        );
    }
    out
}

/// The smallest share of strong calls with which these very prompts reach the quality: what a threshold that knew them
/// would do, for comparison with what others report.
fn fewest_calls(labelled: &[Labelled], judged: &[Judgement], quality: u8) -> f64 {
    let strong = labelled.iter().filter(|one| one.strong_is_right).count() as f64;
    let mut order: Vec<usize> = (0..labelled.len()).filter(|at| !judged[*at].is_unsure).collect();
    order.sort_by(|one, other| judged[*one].score.total_cmp(&judged[*other].score));
    let (mut right, mut fewest) = (strong, labelled.len());
    for (nth, at) in order.into_iter().enumerate() {
        right += f64::from(labelled[at].weak_is_right) - f64::from(labelled[at].strong_is_right);
        if right >= strong * f64::from(quality) / 100.0 {
            fewest = labelled.len() - nth - 1;
        }
    }
    fewest as f64 / labelled.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(lines: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), lines).expect("writes");
        file
    }

    #[test]
    fn a_line_that_is_none_is_told_by_its_number() {
        let good = r#"{"bench": "b", "prompt": "p", "strong_ok": true, "weak_ok": false}"#;
        let labels = file(&format!("{good}\n{{}}\n"));

        let error = read(labels.path()).err().expect("an error").to_string();

        assert!(error.contains(":2: missing field"), "{error}");
        assert!(matches!(read(file("").path()), Err(ComplexityError::TooFew(_))));
    }

    #[test]
    fn a_prompt_is_in_one_half_for_ever() {
        let line = |n: u32| {
            format!(
                "{{\"bench\": \"b\", \"prompt\": \"prompt {n}\", \"strong_ok\": true, \"weak_ok\": false}}\n"
            )
        };
        let forwards: String = (0..100).map(line).collect();
        let backwards: String = (0..100).rev().map(line).collect();
        let texts = |lines: &str| {
            let labels = read(file(lines).path()).expect("labels");
            let mut texts: Vec<String> =
                labels.held_out.into_iter().map(|(_, one)| one.prompt.text).collect();
            texts.sort();
            texts
        };

        assert_eq!(texts(&forwards), texts(&backwards));
        assert!((20..80).contains(&texts(&forwards).len()));
    }

    #[test]
    fn the_report_counts_what_goes_up_and_what_that_keeps() {
        let model = Model::clone(complexity::shipped());
        let labelled: Vec<Labelled> = (0..50)
            .map(|n| Labelled {
                prompt: Prompt { text: format!("prompt {n}"), ..Prompt::default() },
                strong_is_right: true,
                weak_is_right: true,
            })
            .collect();

        let always_weak = Model {
            thresholds: model.thresholds.iter().map(|t| complexity::Threshold { score: 9.0, ..*t }).collect(),
            ..model
        };

        assert!(table("t", &always_weak, &labelled, 0.1).contains(
            "| 100.0 % (100.0–100.0) | 0.0 % | 90.0 % (90.0–90.0) | 90.0 % | 0.0 % (0.0–0.0) | 90.0 % |"
        ));
        let strange = |one: &Labelled| Labelled {
            prompt: Prompt { has_more_than_text: true, ..one.prompt.clone() },
            ..one.clone()
        };
        let (half, rest) = labelled.split_at(25);
        let half_strange = [half.iter().map(strange).collect(), rest.to_vec()].concat();
        assert!(
            table("t", &always_weak, &half_strange, 0.1).contains("| 50.0 % | 45.0 % ("),
            "what the gateway never calls simple goes up here too"
        );
    }
}
