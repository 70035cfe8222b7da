//! What the simulated model says: prose, a value by a schema, or a tool call, in pieces of one token each.

use super::chance::Chance;
use super::{schema, tokens};
use serde_json::Value;

/// Without a header or a schema an answer has at most this many tokens.
const PROSE_TOKENS_MAX: u64 = 40;
const PROSE_TOKENS_MIN: u64 = 12;

/// What a request asks the model for.
#[derive(Debug)]
pub enum AnswerKind {
    Prose { length: Length },
    Value { schema: Value },
    Call { tool: Tool },
}

/// How long prose is, where no limit cuts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Length {
    /// A sentence or two.
    #[default]
    Short,
    /// As much as the limit lets through; short where there is none.
    Full,
    Tokens(u64),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    pub schema: Value,
}

/// How a request chooses among its tools.
#[derive(Clone, Debug, PartialEq)]
pub enum ToolChoice {
    Never,
    /// A tool is called when the prompt speaks of it.
    Auto,
    Must,
    Named(String),
}

#[derive(Debug, PartialEq)]
pub struct Answer {
    /// The called tool; `pieces` are then its arguments.
    pub tool: Option<String>,
    pub pieces: Vec<String>,
    /// All of it, a tool's name included.
    pub tokens: u64,
    /// The output limit came first.
    pub truncated: bool,
}

impl Answer {
    pub fn text(&self) -> String {
        self.pieces.concat()
    }
}

impl Length {
    fn tokens(self, limit: Option<u64>, chance: &mut Chance) -> u64 {
        match (self, limit) {
            (Length::Tokens(tokens), _) => tokens,
            (Length::Full, Some(limit)) => limit,
            (Length::Full | Length::Short, _) => {
                PROSE_TOKENS_MIN + chance.below(PROSE_TOKENS_MAX - PROSE_TOKENS_MIN + 1)
            }
        }
    }
}

/// The answer, cut at the request's output limit.
pub fn compose(kind: &AnswerKind, limit: Option<u64>, chance: &mut Chance) -> Answer {
    let most = limit.unwrap_or(u64::MAX);
    let (tool, mut pieces, overhead_tokens) = match kind {
        AnswerKind::Prose { length } => {
            let wanted = length.tokens(limit, chance);
            // One piece too many is enough to know that the limit cuts.
            let made = wanted.min(most.saturating_add(1)).min(tokens::OUTPUT_TOKENS_MAX);
            (None, tokens::prose(chance, made), 0)
        }
        AnswerKind::Value { schema } => (None, said(schema, chance), 0),
        AnswerKind::Call { tool } => {
            (Some(tool.name.clone()), said(&tool.schema, chance), tokens::count(&tool.name))
        }
    };
    let room = most.saturating_sub(overhead_tokens);
    let truncated = pieces.len() as u64 > room;
    pieces.truncate(usize::try_from(room).unwrap_or(usize::MAX));
    let tokens = (overhead_tokens + pieces.len() as u64).min(most);
    Answer { tool, pieces, tokens, truncated }
}

/// Which tool is called, if any. `prompt` is the last thing the user said, or nothing where a tool spoke last.
pub fn choose_tool(tools: &[Tool], choice: &ToolChoice, prompt: Option<&str>) -> Option<Tool> {
    let spoken_of = || tools.iter().find(|tool| prompt.is_some_and(|prompt| speaks_of(prompt, &tool.name)));
    match choice {
        ToolChoice::Never => None,
        ToolChoice::Auto => spoken_of().cloned(),
        ToolChoice::Must => spoken_of().or(tools.first()).cloned(),
        ToolChoice::Named(name) => tools.iter().find(|tool| tool.name == *name).cloned(),
    }
}

/// `get_weather` is asked for by its name, or by a telling word of it.
fn speaks_of(prompt: &str, name: &str) -> bool {
    const TELLING_LETTERS_MIN: usize = 4;
    let prompt = prompt.to_lowercase();
    let name = name.to_lowercase();
    let mut words = name.split(|letter: char| !letter.is_alphanumeric());
    prompt.contains(&name) || words.any(|word| word.len() >= TELLING_LETTERS_MIN && prompt.contains(word))
}

fn said(schema: &Value, chance: &mut Chance) -> Vec<String> {
    tokens::pieces_of(&schema::sample(schema, chance).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tool(name: &str) -> Tool {
        Tool { name: name.to_owned(), schema: json!({"type": "object"}) }
    }

    #[test]
    fn an_answer_without_wishes_is_short() {
        for seed in 0..50 {
            let answer =
                compose(&AnswerKind::Prose { length: Length::Short }, None, &mut Chance::of(seed, 0));
            assert!((PROSE_TOKENS_MIN..=PROSE_TOKENS_MAX).contains(&answer.tokens));
            assert_eq!(tokens::count(&answer.text()), answer.tokens);
            assert!(!answer.truncated);
        }
    }

    #[test]
    fn a_limit_cuts_and_says_so() {
        let answer = |wanted, limit| {
            compose(&AnswerKind::Prose { length: Length::Tokens(wanted) }, Some(limit), &mut Chance::of(1, 1))
        };
        assert_eq!((answer(100, 7).tokens, answer(100, 7).truncated), (7, true));
        assert_eq!((answer(7, 7).tokens, answer(7, 7).truncated), (7, false));
    }

    #[test]
    fn a_full_answer_is_as_long_as_its_limit_and_not_cut() {
        let full = |limit| compose(&AnswerKind::Prose { length: Length::Full }, limit, &mut Chance::of(1, 1));

        assert_eq!((full(Some(777)).tokens, full(Some(777)).truncated), (777, false));
        assert!(full(None).tokens <= PROSE_TOKENS_MAX);
    }

    #[test]
    fn tools_are_called_when_they_must_or_when_the_prompt_asks() {
        let tools = [tool("get_weather"), tool("book")];
        let chosen = |choice, prompt| choose_tool(&tools, &choice, prompt).map(|tool| tool.name);

        assert_eq!(chosen(ToolChoice::Auto, Some("What's the Weather?")).as_deref(), Some("get_weather"));
        assert_eq!(chosen(ToolChoice::Auto, Some("Hello")), None);
        assert_eq!(chosen(ToolChoice::Auto, None), None);
        assert_eq!(chosen(ToolChoice::Must, Some("Hello")).as_deref(), Some("get_weather"));
        assert_eq!(chosen(ToolChoice::Named("book".to_owned()), None).as_deref(), Some("book"));
        assert_eq!(chosen(ToolChoice::Never, Some("What's the weather?")), None);
    }
}
