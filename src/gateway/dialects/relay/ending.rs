//! How far a stream's answers are from their end, and how they came to it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::conversation::FinishReason;
use super::super::text;

#[derive(Debug)]
pub struct Ending {
    /// How many answers were asked for at once, and which of them have had their finish reason.
    choices: u64,
    finished_choices: BTreeSet<u64>,
    is_finished: bool,
    is_filtered: bool,
    has_failed: bool,
    has_ended: bool,
}

impl Ending {
    /// For a stream of several answers: it is finished when all of them are.
    pub fn of_choices(choices: u64) -> Ending {
        Ending {
            choices,
            finished_choices: BTreeSet::new(),
            is_finished: false,
            is_filtered: false,
            has_failed: false,
            has_ended: false,
        }
    }

    pub fn is_of_one(&self) -> bool {
        self.choices <= 1
    }

    /// Where there are several answers, each ends by itself; only the usage follows the last one's end, also where a server
    /// gave fewer answers than it was asked for.
    pub fn note_chunk(&mut self, chunk: &Value) {
        let choices = chunk["choices"].as_array().map(Vec::as_slice).unwrap_or_default();
        let finished = choices.iter().filter(|choice| text(&choice["finish_reason"]).is_some());
        self.has_failed |= finished.clone().any(|choice| choice["finish_reason"] == "error");
        let places = finished.map(|choice| choice["index"].as_u64().unwrap_or(0));
        self.finished_choices.extend(places.filter(|place| *place < self.choices));
        let are_all = self.finished_choices.len() as u64 >= self.choices;
        let is_usage_alone = choices.is_empty() && chunk["usage"].is_object();
        self.is_finished |= are_all || (is_usage_alone && !self.finished_choices.is_empty());
    }

    pub fn note(&mut self, reason: FinishReason) {
        self.has_failed |= reason == FinishReason::Error;
        self.is_filtered |= reason == FinishReason::ContentFilter;
        self.is_finished |= self.is_of_one();
    }

    /// However many answers there are: there will be no more.
    pub fn finish(&mut self) {
        self.is_finished = true;
    }

    /// False where it had ended before.
    pub fn end(&mut self) -> bool {
        !std::mem::replace(&mut self.has_ended, true)
    }

    /// Whether every answer has had its finish reason.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Whether the upstream has said that no more comes.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub fn is_whole(&self) -> bool {
        self.is_finished || self.has_ended
    }

    /// Whether it ended by itself, and said that something went wrong.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether the provider's policy has ended it.
    pub fn is_filtered(&self) -> bool {
        self.is_filtered
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn several_answers_are_finished_with_the_last_of_them_or_with_the_usage_that_follows_them() {
        let finish =
            |index: u64, reason: &str| json!({"choices": [{"index": index, "finish_reason": reason}]});
        let usage = json!({"choices": [], "usage": {"prompt_tokens": 9}});
        for (claim, chunks, is_finished, has_failed) in [
            ("one of two", vec![finish(0, "stop")], false, false),
            ("both", vec![finish(0, "stop"), finish(1, "length")], true, false),
            ("the same twice", vec![finish(0, "stop"), finish(0, "stop")], false, false),
            ("one that nobody asked for", vec![finish(0, "stop"), finish(2, "stop")], false, false),
            ("no reason", vec![finish(0, ""), finish(1, "stop")], false, false),
            ("fewer than were asked for", vec![finish(0, "stop"), usage.clone()], true, false),
            ("usage before any", vec![usage], false, false),
            ("one that failed", vec![finish(0, "error"), finish(1, "stop")], true, true),
        ] {
            let mut ending = Ending::of_choices(2);

            chunks.iter().for_each(|chunk| ending.note_chunk(chunk));

            assert_eq!((ending.is_finished(), ending.has_failed()), (is_finished, has_failed), "{claim}");
        }
    }
}
