//! What of a prompt can tell how hard it is: counted, never guessed, and each with a name that a reader understands.

use std::collections::HashSet;

/// A conversation, as far as its complexity is judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// What the user said last.
    pub text: String,
    /// Characters of everything before it, the system prompt included.
    pub context_characters: u64,
    /// What the judgement was not trained on: tools, pictures.
    pub has_more_than_text: bool,
}

/// The features, in the order of [`values`].
pub const NAMES: [&str; 20] = [
    "length",
    "words per sentence",
    "letters per word",
    "long words",
    "numbers",
    "largest number",
    "money and percent",
    "formulas",
    "code",
    "choices to pick from",
    "statements to judge",
    "a gap to fill",
    "questions",
    "steps in order",
    "comparisons",
    "shares and multiples",
    "conditions",
    "negations",
    "reasons asked for",
    "names",
];

const STEPS: [&str; 12] = [
    "then",
    "after",
    "next",
    "before",
    "finally",
    "first",
    "each",
    "every",
    "remaining",
    "left",
    "total",
    "altogether",
];
const COMPARISONS: [&str; 10] =
    ["more", "less", "than", "fewer", "most", "least", "difference", "compared", "best", "greater"];
const SHARES: [&str; 10] =
    ["half", "third", "quarter", "twice", "double", "triple", "times", "ratio", "average", "per"];
const CONDITIONS: [&str; 8] = ["if", "unless", "suppose", "assume", "given", "when", "provided", "otherwise"];
const NEGATIONS: [&str; 7] = ["not", "except", "never", "no", "without", "neither", "false"];
const REASONS: [&str; 10] =
    ["why", "prove", "explain", "derive", "show", "argue", "because", "therefore", "analyze", "justify"];
const FORMULA_SIGNS: &str = "+*/=^<>√∫∑≤≥×÷\\";
const LONG_WORD_LETTERS: usize = 10;

/// The value of each feature. Linear in the text's length.
pub fn values(prompt: &Prompt) -> [f64; NAMES.len()] {
    let text = prompt.text.as_str();
    let words: Vec<&str> =
        text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let count = |list: &[&str]| {
        let list: HashSet<&str> = list.iter().copied().collect();
        lower.iter().filter(|word| list.contains(word.as_str())).count()
    };
    let alphabetic = || words.iter().filter(|word| word.chars().all(char::is_alphabetic));
    let numbers: Vec<f64> =
        words.iter().filter_map(|word| word.parse::<u64>().ok()).map(|number| number as f64).collect();
    let signs = |signs: &str| text.chars().filter(|letter| signs.contains(*letter)).count();
    let sentences = text.split(['.', '?', '!', '\n']).filter(|part| part.trim().len() > 1).count();
    let letters: usize = alphabetic().map(|word| word.chars().count()).sum();
    let long = alphabetic().filter(|word| word.chars().count() >= LONG_WORD_LETTERS).count();
    let names = words.iter().skip(1).filter(|word| word.starts_with(char::is_uppercase) && word.len() > 1);
    let lines = || text.lines().map(str::trim_start);
    let choices = lines().filter(|line| is_choice(line)).count();
    let code = text.contains("```") || lines().any(|line| line.starts_with("def ") || line.ends_with(';'));
    let is = |found: bool| if found { 1.0 } else { 0.0 };
    let per = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    let log = |count: usize| (count as f64).ln_1p();
    [
        log(text.chars().count()),
        per(words.len(), sentences),
        per(letters, alphabetic().count()),
        per(long, words.len()),
        log(numbers.len()),
        numbers.iter().copied().fold(0.0, f64::max).ln_1p(),
        log(signs("$€£%")),
        log(signs(FORMULA_SIGNS)),
        is(code),
        is(choices >= 2),
        is(lower.iter().any(|word| word == "statement") || text.contains("of the following")),
        is(text.contains("__")),
        log(signs("?")),
        log(count(&STEPS)),
        log(count(&COMPARISONS)),
        log(count(&SHARES)),
        log(count(&CONDITIONS)),
        log(count(&NEGATIONS)),
        log(count(&REASONS)),
        per(names.count(), words.len()),
    ]
}

/// `A. …`, `(b) …`, `1) …`
fn is_choice(line: &str) -> bool {
    let line = line.trim_start_matches('(');
    let mut letters = line.chars();
    letters.next().is_some_and(char::is_alphanumeric) && matches!(letters.next(), Some('.' | ')'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, name: &str) -> f64 {
        let prompt = Prompt { text: text.into(), ..Prompt::default() };
        values(&prompt)[NAMES.iter().position(|known| *known == name).unwrap()]
    }

    #[test]
    fn features_count_what_their_names_say() {
        for (text, name, expected) in [
            ("", "length", 0.0),
            ("one two. three four?", "words per sentence", 2.0),
            ("ab abcd 12", "letters per word", 3.0),
            ("It costs 12 or 30.", "numbers", 2_f64.ln_1p()),
            ("It costs 12 or 30.", "largest number", 30_f64.ln_1p()),
            ("$5 and 3%", "money and percent", 2_f64.ln_1p()),
            ("Pick\\nA. x\\nB. y".replace("\\n", "\n").as_str(), "choices to pick from", 1.0),
            ("A. Smith is here", "choices to pick from", 0.0),
            ("def f():", "code", 1.0),
            ("Then each of them left.", "steps in order", 3_f64.ln_1p()),
            ("Ann met Bob", "names", 1.0 / 3.0),
        ] {
            assert!((value(text, name) - expected).abs() < 1e-9, "{name} of {text:?}: {}", value(text, name));
        }
    }
}
