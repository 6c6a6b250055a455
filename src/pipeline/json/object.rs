//! JSON objects in the bodies of feedback and of changes of deployments.
//!
//! `serde`'s derived types also accept an array as an object, and a map keeps the last of two values with the same
//! name. An [`Object`] refuses both. It also limits the number of names and their length.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Serialize, forward_to_deserialize_any};

/// Maximum number of names in one object. Feedback has four names, and a change of a deployment has one per version.
const MAX_NAMES: usize = 1_000;
/// Maximum length of a name, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// A value that was written as a JSON object without duplicate names.
///
/// ```
/// use std::collections::BTreeMap;
/// use leeway::pipeline::Object;
/// let read = |json: &str| serde_json::from_str::<Object<BTreeMap<String, u8>>>(json).map(|Object(map)| map);
/// assert_eq!(read(r#"{"a": 1}"#).unwrap()["a"], 1);
/// assert!(read(r#"{"a": 1, "a": 1}"#).unwrap_err().to_string().starts_with("the name \"a\" occurs twice"));
/// assert!(read("[1]").unwrap_err().to_string().starts_with("invalid type: sequence, expected an object"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Object<T>(pub T);

struct ObjectVisitor<T>(PhantomData<T>);

/// The members of an object. Refuses duplicate names.
struct Members<A> {
    inner: A,
    seen: HashSet<Box<str>>,
}

/// Reader of a name of bounded length.
struct Name;

/// Deserializes a name as a string, or as a number if it has the form of one.
struct NameDeserializer<'a, E>(&'a str, PhantomData<E>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Object)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(Members { inner, seen: HashSet::new() }))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some(name) = self.inner.next_key_seed(Name)? else { return Ok(None) };
        if self.seen.len() == MAX_NAMES {
            return Err(de::Error::custom(format_args!("an object has more than {MAX_NAMES} names")));
        }
        if self.seen.contains(&name) {
            return Err(de::Error::custom(format_args!("the name {name:?} occurs twice")));
        }
        let key = seed.deserialize(NameDeserializer(&name, PhantomData))?;
        self.seen.insert(name);
        Ok(Some(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.inner.next_value_seed(seed)
    }
}

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Box<str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Box<str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Box<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Box<str>, E> {
        if name.len() > MAX_NAME_BYTES {
            let length = name.len();
            return Err(E::custom(format_args!("a name of {length} bytes, at most {MAX_NAME_BYTES} are accepted")));
        }
        Ok(name.into())
    }
}

impl<'de, E: de::Error> NameDeserializer<'_, E> {
    fn number<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        // Accepts only the notation of JSON, without a sign or leading zeros.
        match self.0.parse::<u64>() {
            Ok(number) if number.to_string() == self.0 => visitor.visit_u64(number),
            _ => visitor.visit_str(self.0),
        }
    }
}

impl<'de, E: de::Error> Deserializer<'de> for NameDeserializer<'_, E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_str(self.0)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        self.number(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        self.number(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, E> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::identity::Version;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Change {
        version: Version,
        #[serde(default)]
        shares: Option<Object<BTreeMap<Version, u8>>>,
    }

    fn check(json: &str, problem: &str) {
        let error = serde_json::from_str::<Object<Change>>(json).unwrap_err().to_string();
        assert!(error.starts_with(problem), "{json}: {error}");
    }

    #[test]
    fn an_object_is_written_as_one_and_has_each_name_once() {
        let Object(change) =
            serde_json::from_str::<Object<Change>>(r#"{"version": 2, "shares": {"2": 50, "1": 50}}"#).unwrap();
        assert_eq!((change.version.get(), change.shares.unwrap().0.len()), (2, 2));
        check("[2]", "invalid type: sequence, expected an object");
        check("[2, null]", "invalid type: sequence, expected an object");
        check("2", "invalid type: integer `2`, expected an object");
        check("null", "invalid type: null, expected an object");
        check(r#"{"version": 2, "version": 2}"#, "the name \"version\" occurs twice");
        check(r#"{"version": 2, "v\u0065rsion": 2}"#, "the name \"version\" occurs twice");
        check(r#"{"version": 2, "shares": {"2": 50, "1": 50, "2": 50}}"#, "the name \"2\" occurs twice");
        check(r#"{"version": 2, "shares": [["2", 100]]}"#, "invalid type: sequence, expected an object");
        check(r#"{"version": 2, "shares": {"+2": 100}}"#, "invalid type: string \"+2\", expected a nonzero u32");
        check(r#"{"version": 2, "shares": {"02": 100}}"#, "invalid type: string \"02\", expected a nonzero u32");
        check(r#"{"version": 2, "share": 1}"#, "unknown field `share`");
    }

    #[test]
    fn names_are_bounded() {
        let long = format!(r#"{{"{}": 1}}"#, "x".repeat(1 << 20));
        check(&long, "a name of 1048576 bytes, at most 128 are accepted");
        let many: Vec<String> = (1..=1_001).map(|version| format!("\"{version}\": 1")).collect();
        let many = format!(r#"{{"version": 2, "shares": {{{}}}}}"#, many.join(","));
        check(&many, "an object has more than 1000 names");
    }
}
