//! The model's weights, from prompts of which is known whether a strong and a weak model answered right.
//!
//! A ridge regression of what the strong one brings: 1 where it alone is right, -1 where the weak one alone is, else 0. The
//! score is then the gain to be expected, which is what routing weighs against its price.

use super::features::{self, NAMES, Prompt};
use super::{Feature, Model, Threshold};

/// A prompt with what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    pub prompt: Prompt,
    pub strong_is_right: bool,
    pub weak_is_right: bool,
}

/// Shares of the strong model's accuracy for which thresholds are set.
pub const QUALITIES: [u8; 4] = [90, 95, 99, 100];
/// Tried as the weight of smallness, in units of the number of prompts.
const RIDGES: [f64; 5] = [0.003, 0.01, 0.03, 0.1, 0.3];
const FOLDS: usize = 5;
const WIDTH: usize = NAMES.len() + 1;

/// A model of these prompts. The ridge is chosen by cross-validation among them; so are the thresholds set, by scores of
/// models that had not seen the prompt: those of a model's own prompts promise too much.
pub fn train(labelled: &[Labelled]) -> Model {
    let rows: Vec<[f64; NAMES.len()]> = labelled.iter().map(|one| features::values(&one.prompt)).collect();
    let gains: Vec<f64> = labelled.iter().map(gain).collect();
    let crossed = RIDGES.map(|ridge| (ridge, out_of_fold(&rows, &gains, ridge)));
    let error = |scores: &[f64]| -> f64 {
        scores.iter().zip(&gains).map(|(score, gain)| (gain - score).powi(2)).sum()
    };
    let best = crossed.iter().min_by(|(_, one), (_, other)| error(one).total_cmp(&error(other)));
    let Some((ridge, scores)) = best else { return fit(&rows, &gains, &[], RIDGES[0]) };
    let all: Vec<usize> = (0..rows.len()).collect();
    let mut model = fit(&rows, &gains, &all, *ridge);
    model.thresholds = QUALITIES
        .into_iter()
        .map(|quality| Threshold { quality, score: threshold(labelled, scores, quality) })
        .collect();
    model
}

/// Each prompt's score by a model of the other folds.
fn out_of_fold(rows: &[[f64; NAMES.len()]], gains: &[f64], ridge: f64) -> Vec<f64> {
    let model = |held_out: usize| {
        let used: Vec<usize> = (0..rows.len()).filter(|at| at % FOLDS != held_out).collect();
        fit(rows, gains, &used, ridge)
    };
    let models: Vec<Model> = (0..FOLDS).map(model).collect();
    rows.iter().enumerate().map(|(at, row)| models[at % FOLDS].of(row)).collect()
}

fn gain(labelled: &Labelled) -> f64 {
    f64::from(labelled.strong_is_right) - f64::from(labelled.weak_is_right)
}

/// The highest score below which all may go to the weak model while this percentage of the strong one's right answers
/// are reached.
fn threshold(labelled: &[Labelled], scores: &[f64], quality: u8) -> f64 {
    let strong = labelled.iter().filter(|one| one.strong_is_right).count() as f64;
    let needed = strong * f64::from(quality) / 100.0;
    let mut order: Vec<usize> = (0..labelled.len()).collect();
    order.sort_by(|one, other| scores[*one].total_cmp(&scores[*other]));
    // Below every score, where none may go: JSON has no infinity.
    let (mut right, mut best) = (strong, f64::MIN);
    for at in order {
        right -= gain(&labelled[at]);
        if right >= needed {
            best = scores[at];
        }
    }
    // Just above the last one that may go.
    best + f64::EPSILON
}

/// Weights of standardised features, by the normal equations.
fn fit(rows: &[[f64; NAMES.len()]], gains: &[f64], used: &[usize], ridge: f64) -> Model {
    let count = used.len().max(1) as f64;
    let mut features = Vec::with_capacity(NAMES.len());
    for (nth, name) in NAMES.into_iter().enumerate() {
        let mean = used.iter().map(|at| rows[*at][nth]).sum::<f64>() / count;
        let variance = used.iter().map(|at| (rows[*at][nth] - mean).powi(2)).sum::<f64>() / count;
        // One that never varies tells nothing.
        let deviation = if variance > 0.0 { variance.sqrt() } else { 1.0 };
        features.push(Feature { name: name.to_owned(), mean, deviation, weight: 0.0 });
    }
    let mut normal = [[0.0; WIDTH + 1]; WIDTH];
    for at in used {
        let mut row = [1.0; WIDTH];
        for (nth, feature) in features.iter().enumerate() {
            row[nth] = (rows[*at][nth] - feature.mean) / feature.deviation;
        }
        for (i, left) in row.iter().enumerate() {
            for (j, right) in row.iter().enumerate() {
                normal[i][j] += left * right;
            }
            normal[i][WIDTH] += left * gains[*at];
        }
    }
    for (nth, equation) in normal.iter_mut().enumerate().take(NAMES.len()) {
        equation[nth] += ridge * count;
    }
    let solution = solve(normal);
    for (feature, weight) in features.iter_mut().zip(solution) {
        feature.weight = weight;
    }
    Model { features, intercept: solution[WIDTH - 1], thresholds: Vec::new() }
}

/// Gauss and Jordan, with the largest pivot of each column. The ridge keeps the equations regular.
fn solve(mut rows: [[f64; WIDTH + 1]; WIDTH]) -> [f64; WIDTH] {
    for column in 0..WIDTH {
        let size = |rows: &[[f64; WIDTH + 1]; WIDTH], row: usize| rows[row][column].abs();
        let pivot = (column..WIDTH).max_by(|one, other| size(&rows, *one).total_cmp(&size(&rows, *other)));
        rows.swap(column, pivot.unwrap_or(column));
        let by = rows[column];
        for (nth, row) in rows.iter_mut().enumerate() {
            if nth != column && by[column] != 0.0 {
                let factor = row[column] / by[column];
                row.iter_mut().zip(by).for_each(|(value, other)| *value -= factor * other);
            }
        }
    }
    std::array::from_fn(|nth| {
        let pivot = rows[nth][nth];
        if pivot == 0.0 { 0.0 } else { rows[nth][WIDTH] / pivot }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::routing::complexity::Level;

    fn labelled(text: &str, strong_is_right: bool, weak_is_right: bool) -> Labelled {
        let prompt = Prompt { text: text.into(), ..Prompt::default() };
        Labelled { prompt, strong_is_right, weak_is_right }
    }

    /// The weak model fails where there are numbers.
    fn world() -> Vec<Labelled> {
        let prompts = (0..200).map(|n| match n % 2 {
            0 => labelled(&format!("What are {n} and {} and 7?", n + 1), true, false),
            _ => labelled("What is the name of that river?", true, true),
        });
        prompts.collect()
    }

    #[test]
    fn what_makes_the_weak_model_fail_is_found_and_named() {
        let model = train(&world());

        let hard = model.judge(&Prompt { text: "What are 8 and 9 and 7?".into(), ..Prompt::default() });
        let easy =
            model.judge(&Prompt { text: "What is the name of that river?".into(), ..Prompt::default() });

        assert!(hard.score > 0.8 && easy.score < 0.2, "{hard:?} {easy:?}");
        assert!(hard.because.iter().any(|name| name.contains("number")), "{hard:?}");
    }

    #[test]
    fn weights_by_which_nothing_may_go_to_the_weak_model_can_be_read_again() {
        let mut lost = world();
        lost.iter_mut().for_each(|one| one.weak_is_right = false);
        let model = train(&lost);

        let read = Model::from_json(&serde_json::to_string(&model).unwrap()).unwrap();

        let judgement = read.judge(&lost[0].prompt);
        assert!(read.level(&judgement, 100) > Level::Simple);
    }

    #[test]
    fn a_threshold_keeps_what_it_promises_where_it_was_set() {
        let world = world();
        let model = train(&world);

        for Threshold { quality, score } in &model.thresholds {
            let to_weak = |one: &&Labelled| model.judge(&one.prompt).score < *score;
            let lost = world.iter().filter(to_weak).filter(|one| !one.weak_is_right).count();
            assert!(lost as f64 <= 200.0 * f64::from(100 - quality) / 100.0, "{quality}: {lost} lost");
            assert!(world.iter().filter(to_weak).count() >= 100, "the easy half goes to the weak model");
        }
    }
}
