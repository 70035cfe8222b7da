//! What of a prompt can tell how hard it is: counted, never guessed, and each with a name that a reader understands.

use std::collections::HashMap;
use std::sync::LazyLock;

/// One message of a conversation, as far as its complexity is judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// What the user said.
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

/// The lists of words that are counted, each a feature.
const LISTS: [&[&str]; 6] = [&STEPS, &COMPARISONS, &SHARES, &CONDITIONS, &NEGATIONS, &REASONS];
/// No word that is looked for is longer.
const LISTED_BYTES_MAX: usize = 16;

/// The lists that contain a word, as bits.
static LISTED: LazyLock<HashMap<&str, u8>> = LazyLock::new(|| {
    let mut listed = HashMap::new();
    for (nth, list) in LISTS.iter().enumerate() {
        list.iter().for_each(|word| *listed.entry(*word).or_default() |= 1 << nth);
    }
    listed
});

/// What is counted of the words, in one pass.
#[derive(Default)]
struct Words {
    all: usize,
    alphabetic: usize,
    letters: usize,
    long: usize,
    numbers: usize,
    largest_number: u64,
    names: usize,
    has_statement: bool,
    listed: [usize; LISTS.len()],
}

impl Words {
    fn of(text: &str) -> Words {
        let mut words = Words::default();
        let all = text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
        all.for_each(|word| words.add(word));
        words
    }

    fn add(&mut self, word: &str) {
        if self.all > 0 && word.len() > 1 && word.starts_with(char::is_uppercase) {
            self.names += 1;
        }
        self.all += 1;
        if word.chars().all(char::is_alphabetic) {
            let letters = word.chars().count();
            self.alphabetic += 1;
            self.letters += letters;
            self.long += usize::from(letters >= LONG_WORD_LETTERS);
        } else if let Ok(number) = word.parse::<u64>() {
            self.numbers += 1;
            self.largest_number = self.largest_number.max(number);
        }
        self.look_up(word);
    }

    fn look_up(&mut self, word: &str) {
        let mut lower = [0; LISTED_BYTES_MAX];
        let Some(lower) = lower.get_mut(..word.len()) else { return };
        lower.copy_from_slice(word.as_bytes());
        lower.make_ascii_lowercase();
        let Ok(lower) = str::from_utf8(lower) else { return };
        self.has_statement |= lower == "statement";
        let lists = LISTED.get(lower).copied().unwrap_or_default();
        for (nth, count) in self.listed.iter_mut().enumerate() {
            *count += usize::from(lists >> nth & 1);
        }
    }
}

/// The value of each feature. Linear in the text's length.
pub fn values(prompt: &Prompt) -> [f64; NAMES.len()] {
    let text = prompt.text.as_str();
    let words = Words::of(text);
    let (mut characters, mut money, mut formulas, mut questions) = (0, 0, 0, 0);
    for letter in text.chars() {
        characters += 1;
        if !letter.is_ascii_alphabetic() && letter != ' ' {
            money += usize::from("$€£%".contains(letter));
            formulas += usize::from(FORMULA_SIGNS.contains(letter));
            questions += usize::from(letter == '?');
        }
    }
    let sentences = text.split(['.', '?', '!', '\n']).filter(|part| part.trim().len() > 1).count();
    let lines = || text.lines().map(str::trim_start);
    let choices = lines().filter(|line| is_choice(line)).count();
    let code = text.contains("```") || lines().any(|line| line.starts_with("def ") || line.ends_with(';'));
    let is = |found: bool| if found { 1.0 } else { 0.0 };
    let per = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    let log = |count: usize| (count as f64).ln_1p();
    let [steps, comparisons, shares, conditions, negations, reasons] = words.listed.map(log);
    [
        log(characters),
        per(words.all, sentences),
        per(words.letters, words.alphabetic),
        per(words.long, words.all),
        log(words.numbers),
        (words.largest_number as f64).ln_1p(),
        log(money),
        log(formulas),
        is(code),
        is(choices >= 2),
        is(words.has_statement || text.contains("of the following")),
        is(text.contains("__")),
        log(questions),
        steps,
        comparisons,
        shares,
        conditions,
        negations,
        reasons,
        per(words.names, words.all),
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
