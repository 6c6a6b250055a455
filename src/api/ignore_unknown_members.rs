//! Reads a type from a response and ignores unknown members. Some types, such as a manifest, refuse unknown members,
//! because people write them in files. In responses of newer servers, unknown members of these types must be ignored.

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

/// JSON object of a type whose unknown members are ignored.
struct KnownMembers(Map<String, Value>);

/// Reads an optional JSON object into `T`, and ignores members that `T` does not have.
pub(super) fn optional<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let members = Option::<Map<String, Value>>::deserialize(deserializer)?;
    members.map(|members| T::deserialize(KnownMembers(members))).transpose().map_err(D::Error::custom)
}

impl<'de> Deserializer<'de> for KnownMembers {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        Value::Object(self.0).deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let KnownMembers(mut members) = self;
        members.retain(|member, _| fields.contains(&member.as_str()));
        Value::Object(members).deserialize_struct(name, fields, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
