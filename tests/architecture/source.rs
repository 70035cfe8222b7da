//! Reads Rust, as far as the rules need it, with the standard library only: words, marks and texts by their lines.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The sources by their paths.
pub fn all_sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect_sources(&root.join("src"), &mut files);
    files.sort();
    assert!(!files.is_empty(), "no sources under {}", root.display());
    let read = |file: &PathBuf| {
        let path = file.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        (path, fs::read_to_string(file).unwrap())
    };
    files.iter().map(read).collect()
}

pub fn collect_sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The sources' words, without those of tests.
pub fn code() -> Vec<Token> {
    let sources = all_sources();
    let tests = all_test_modules(&sources);
    let code = sources.iter().filter(|(path, _)| !is_test(&tests, path));
    code.flat_map(|(_, source)| without_test_items(scan(source))).collect()
}

pub fn texts_of(tokens: &[Token]) -> Vec<String> {
    let texts = tokens.iter().filter(|token| token.kind == Kind::Text);
    texts.map(|token| token.text.clone()).collect()
}

/// The texts with their lines; what one `concat!` joins is one text, with `()` for each macro in it.
pub fn joined_texts(tokens: &[Token]) -> Vec<Token> {
    let mut texts: Vec<Token> = Vec::new();
    // Parentheses that are open, from that of a `concat!` on.
    let mut depth = 0;
    for (position, token) in tokens.iter().enumerate() {
        if depth == 0 {
            if token.is("(")
                && matches!(&tokens[..position], [.., name, mark] if name.is("concat") && mark.is("!"))
            {
                depth = 1;
                texts.push(Token { kind: Kind::Text, text: String::new(), line: token.line });
            } else if token.kind == Kind::Text {
                texts.push(token.clone());
            }
            continue;
        }
        let joined = texts.last_mut().unwrap();
        if token.is("(") {
            depth += 1;
            joined.text.push_str(" () ");
        } else if token.is(")") {
            depth -= 1;
        } else if token.kind == Kind::Text && depth == 1 {
            joined.text.push_str(&token.text);
        }
    }
    texts
}

pub fn all_test_modules(sources: &[(String, String)]) -> Vec<Vec<String>> {
    sources.iter().flat_map(|(path, source)| test_modules(path, &scan(source))).collect()
}

pub fn is_test(test_modules: &[Vec<String>], path: &str) -> bool {
    test_modules.iter().any(|test| module_of(path).starts_with(test))
}

pub fn module_of(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    if parts == ["lib"] || parts == ["main"] { Vec::new() } else { parts }
}

pub fn file_stem(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs").to_owned()
}

/// Every top-level module that the file names, by `crate::`, `tollgate::` or enough `super::`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A word, or a mark; `::` is one mark.
    Code,
    /// The content of a string.
    Text,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub kind: Kind,
    pub text: String,
    pub line: usize,
}

impl Token {
    pub fn is(&self, text: &str) -> bool {
        self.kind == Kind::Code && self.text == text
    }
}

/// Words, marks and strings; comments and characters are left out.
pub fn scan(source: &str) -> Vec<Token> {
    let mut reader = Reader { letters: source.chars().collect(), at: 0, line: 1 };
    let mut tokens = Vec::new();
    while let Some(letter) = reader.peek(0) {
        let line = reader.line;
        let mut push = |kind, text| tokens.push(Token { kind, text, line });
        if letter == '/' && reader.peek(1) == Some('/') {
            reader.take_while(|letter| letter != '\n');
        } else if letter == '/' && reader.peek(1) == Some('*') {
            reader.skip_block_comment();
        } else if letter == '"' {
            push(Kind::Text, reader.take_text());
        } else if letter == '\'' {
            reader.skip_character_or_lifetime();
        } else if letter.is_alphanumeric() || letter == '_' {
            let word = reader.take_while(|letter| letter.is_alphanumeric() || letter == '_');
            match (word.as_str(), reader.peek(0)) {
                ("r" | "br" | "cr", Some('"' | '#')) if reader.raw_text_follows() => {
                    push(Kind::Text, reader.take_raw_text());
                }
                _ => push(Kind::Code, word),
            }
        } else if letter == ':' && reader.peek(1) == Some(':') {
            reader.skip(2);
            push(Kind::Code, "::".to_owned());
        } else {
            reader.skip(1);
            if !letter.is_whitespace() {
                push(Kind::Code, letter.to_string());
            }
        }
    }
    tokens
}

struct Reader {
    letters: Vec<char>,
    at: usize,
    line: usize,
}

impl Reader {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.letters.get(self.at + ahead).copied()
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            if self.peek(0) == Some('\n') {
                self.line += 1;
            }
            self.at += 1;
        }
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(letter) = self.peek(0).filter(|letter| wanted(*letter)) {
            taken.push(letter);
            self.skip(1);
        }
        taken
    }

    /// Block comments nest.
    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        while let Some(letter) = self.peek(0) {
            match (letter, self.peek(1)) {
                ('/', Some('*')) => {
                    depth += 1;
                    self.skip(2);
                }
                ('*', Some('/')) => {
                    depth -= 1;
                    self.skip(2);
                }
                _ => self.skip(1),
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn take_text(&mut self) -> String {
        let mut text = String::new();
        self.skip(1);
        while let Some(letter) = self.peek(0) {
            match letter {
                '"' => {
                    self.skip(1);
                    break;
                }
                '\\' => {
                    // An escaped line end only folds the text; every escape reads as a space.
                    text.push(' ');
                    self.skip(2);
                }
                _ => {
                    text.push(letter);
                    self.skip(1);
                }
            }
        }
        text
    }

    /// `r#"` begins a text, `r#type` is a word.
    fn raw_text_follows(&self) -> bool {
        let hashes = (0..).take_while(|ahead| self.peek(*ahead) == Some('#')).count();
        self.peek(hashes) == Some('"')
    }

    fn take_raw_text(&mut self) -> String {
        let hashes = self.take_while(|letter| letter == '#').len();
        self.skip(1);
        let mut text = String::new();
        while let Some(letter) = self.peek(0) {
            let closes = letter == '"' && (1..=hashes).all(|ahead| self.peek(ahead) == Some('#'));
            if closes {
                self.skip(1 + hashes);
                break;
            }
            text.push(letter);
            self.skip(1);
        }
        text
    }

    /// `'x'` and `'\n'` are characters, `'static` is a lifetime and reads as a word without its mark.
    fn skip_character_or_lifetime(&mut self) {
        match (self.peek(1), self.peek(2)) {
            (Some('\\'), _) => {
                self.skip(3);
                self.take_while(|letter| letter != '\'');
                self.skip(1);
            }
            (Some(_), Some('\'')) => self.skip(3),
            _ => self.skip(1),
        }
    }
}

/// Tests may do what the code may not: items under `#[cfg(test)]` are dropped.
pub fn without_test_items(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut position = 0;
    while position < tokens.len() {
        match test_item(&tokens, position) {
            Some(item) => position = item.end,
            None => {
                kept.push(tokens[position].clone());
                position += 1;
            }
        }
    }
    kept
}

/// The modules in files of their own that this file declares as tests.
fn test_modules(path: &str, tokens: &[Token]) -> Vec<Vec<String>> {
    let items = (0..tokens.len()).filter_map(|position| test_item(tokens, position));
    let declared = items.filter_map(|item| match &tokens[item] {
        [.., word, name, end] if word.is("mod") && end.is(";") => Some(name.text.clone()),
        _ => None,
    });
    declared.map(|name| module_of(path).into_iter().chain([name]).collect()).collect()
}

/// The item under the `#[cfg(test)]` at this position.
fn test_item(tokens: &[Token], position: usize) -> Option<Range<usize>> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let marked =
        tokens[position..].iter().zip(MARK).filter(|(token, text)| token.is(text)).count() == MARK.len();
    let start = position + MARK.len();
    marked.then(|| start..end_of_item(tokens, start))
}

/// Where the item that begins here ends: after its braces, or after its semicolon.
pub fn end_of_item(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0;
    for (position, token) in tokens.iter().enumerate().skip(start) {
        if token.is("{") {
            depth += 1;
        } else if token.is("}") {
            depth -= 1;
        }
        if depth == 0 && (token.is("}") || token.is(";")) {
            return position + 1;
        }
    }
    tokens.len()
}
