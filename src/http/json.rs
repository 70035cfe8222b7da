//! JSON as bodies are read: each name stands once in its object, and what is described as an object is one. Serde by itself
//! takes an array for any struct, by the order of its fields, and the last of two values under one name.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};
use serde_json::{Error, Map, Value};

/// # Errors
/// What is not JSON, or has one name twice in an object; and where.
pub fn read(bytes: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(bytes).map(|NoDuplicateKeys(value)| value)
}

/// # Errors
/// What in it is not as described, and where.
pub fn parse<'de, T: Deserialize<'de>>(value: &'de Value) -> Result<T, serde_path_to_error::Error<Error>> {
    // The place is sought only where there is an error: it costs.
    T::deserialize(StrictObjects(value)).or_else(|_| serde_path_to_error::deserialize(StrictObjects(value)))
}

/// Objects that stay objects where serde goes round what is [`StrictObjects`]: it reads a variant's tag from an array too.
///
/// # Errors
/// What in them is not as described.
pub fn tagged<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let objects = Vec::<Map<String, Value>>::deserialize(deserializer)?;
    objects
        .into_iter()
        .map(|object| T::deserialize(Value::Object(object)).map_err(D::Error::custom))
        .collect()
}

/// Any JSON in whose objects each name stands once.
struct NoDuplicateKeys(Value);

impl<'de> Deserialize<'de> for NoDuplicateKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NoDuplicateKeys, D::Error> {
        deserializer.deserialize_any(NoDuplicateKeysVisitor).map(NoDuplicateKeys)
    }
}

struct NoDuplicateKeysVisitor;

impl<'de> Visitor<'de> for NoDuplicateKeysVisitor {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut given: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(NoDuplicateKeys(item)) = given.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut given: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = given.next_key::<String>()? {
            if members.contains_key(&name) {
                return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
            }
            let NoDuplicateKeys(value) = given.next_value()?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

/// A value that is a struct only where it is an object.
struct StrictObjects<'de>(&'de Value);

impl<'de> Deserializer<'de> for StrictObjects<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.iter().map(StrictObjects));
                let value = visitor.visit_seq(&mut items)?;
                items.end().map(|()| value)
            }
            Value::Object(members) => {
                let members = members.iter().map(|(name, value)| (name.as_str(), StrictObjects(value)));
                visitor.visit_map(MapDeserializer::new(members))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                self.0.deserialize_any(visitor)
            }
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.0.is_array() {
            return Err(Error::invalid_type(Unexpected::Seq, &visitor));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    /// One of some words.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(word) => visitor.visit_enum(word.as_str().into_deserializer()),
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for StrictObjects<'de> {
    type Deserializer = StrictObjects<'de>;

    fn into_deserializer(self) -> StrictObjects<'de> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Body {
        count: Option<i16>,
        share: f64,
        word: Word,
        inner: Option<Box<Body>>,
        list: Vec<Body>,
        names: BTreeMap<Word, String>,
        rest: Value,
    }

    #[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        #[default]
        One,
        Other,
    }

    fn body(text: &str) -> Result<Body, String> {
        let value = read(text.as_bytes()).map_err(|error| error.to_string())?;
        parse(&value).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_as_described_is_read() {
        let text = r#"{"count": -3, "share": 1, "word": "other", "inner": {"count": null}, "list": [{}, {"share": 0.5}],
                       "names": {"one": "é\n"}, "rest": [1, {"a": [true, 18446744073709551615]}]}"#;
        let inner = |share| Body { share, ..Body::default() };

        let wanted = Body {
            count: Some(-3),
            word: Word::Other,
            inner: Some(Box::new(Body::default())),
            list: vec![Body::default(), inner(0.5)],
            names: [(Word::One, "é\n".to_owned())].into(),
            rest: json!([1, { "a": [true, u64::MAX] }]),
            ..inner(1.0)
        };
        assert_eq!(body(text).expect("a body"), wanted);
    }

    #[test]
    fn what_is_not_is_named() {
        for (text, why) in [
            ("[]", "invalid type: sequence, expected struct Body"),
            ("[1, 2]", "invalid type: sequence, expected struct Body"),
            ("null", "invalid type: null, expected struct Body"),
            (r#"{"inner": [1]}"#, "inner: invalid type: sequence, expected struct Body"),
            (r#"{"list": [{}, []]}"#, "list[1]: invalid type: sequence, expected struct Body"),
            (r#"{"names": []}"#, "names: invalid type: sequence, expected a map"),
            (r#"{"word": {"one": null}}"#, "word: invalid type: map, expected"),
            (r#"{"inner": {"word": "two"}}"#, "inner.word: unknown variant `two`"),
            (r#"{"count": 40000}"#, "count: invalid value: integer `40000`, expected i16"),
            (r#"{"counts": 1}"#, "unknown field `counts`"),
            (r#"{"count": 1, "count": 1}"#, "duplicate field `count` at line 1 column"),
            (r#"{"names": {"one": "a", "\u006fne": "b"}}"#, "duplicate field `one`"),
            (r#"{"rest": [{"a": {"b": 1, "b": 2}}]}"#, "duplicate field `b`"),
            (r#"{"count": 1"#, "EOF while parsing"),
        ] {
            let error = body(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
