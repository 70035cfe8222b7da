//! Typed ids. All are made outside the domain and passed in.
//!
//! A reservation's id carries its org's id, so that every route finds and authorises it without a look-up.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;
use uuid::fmt::Simple;

use crate::domain::text;

/// A text that is not an id of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} ids look like \"{prefix}_…\"; this is not one")]
pub struct IdError {
    pub kind: &'static str,
    pub prefix: &'static str,
}

/// A map by ids, which nobody but Tollgate makes: a hash that is fast, and seeded all the same.
pub type IdMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Takes an entry out of a map, and gives back most of the room of one that was once much larger: an org that was busy
/// stays in memory for long.
pub fn take<K: Eq + Hash, V>(map: &mut IdMap<K, V>, key: &K) -> Option<V> {
    let taken = map.remove(key);
    if map.capacity() >= ROOM_KEPT && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
    taken
}

/// A set of them.
pub type IdSet<K> = HashSet<K, foldhash::fast::RandomState>;

/// Entries that a map may have room for, however few it has.
const ROOM_KEPT: usize = 64;

/// The longest prefix and two UUIDs.
const TEXT_BYTES_MAX: usize = 4 + 2 * Simple::LENGTH;

/// By hand and without the heap: every event has several.
fn write<'a>(text: &'a mut [u8; TEXT_BYTES_MAX], prefix: &str, parts: &[Uuid]) -> &'a str {
    let mut length = prefix.len();
    text[..length].copy_from_slice(prefix.as_bytes());
    for part in parts {
        length += part.simple().encode_lower(&mut text[length..]).len();
    }
    std::str::from_utf8(&text[..length]).unwrap_or_default()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.write(&mut [0; TEXT_BYTES_MAX]))
            }
        }

        impl $name {
            fn write(self, text: &mut [u8; TEXT_BYTES_MAX]) -> &str {
                write(text, concat!($prefix, "_"), &[self.0])
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<$name, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .filter(|rest| rest.len() == 32)
                    .and_then(|rest| Uuid::try_parse(rest).ok())
                    .map($name)
                    .ok_or(IdError { kind: $kind, prefix: $prefix })
            }
        }

        text_id!($name, $prefix);
    };
}

macro_rules! text_id {
    ($name:ident, $prefix:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.write(&mut [0; TEXT_BYTES_MAX]))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                text::parsed(deserializer)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                use utoipa::openapi::schema::{ObjectBuilder, Type};
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .pattern(Some(concat!("^", $prefix, "_")))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": concat!("^", $prefix, "_") })
            }
        }
    };
}

id!(
    /// An organisation: the unit that buys and spends.
    OrgId, "org", "org"
);
id!(
    /// A project of an org.
    ProjectId, "prj", "project"
);
id!(
    /// One lot of credits.
    LotId, "lot", "lot"
);
id!(
    /// A catalogue item.
    BundleId, "bnd", "bundle"
);
id!(
    /// One event of the log.
    EventId, "evt", "event"
);
id!(
    /// One request on `/v1`.
    RequestId, "req", "request"
);

impl OrgId {
    /// The org that owns the global facts, on shard 0.
    pub const SYSTEM: OrgId = OrgId(Uuid::nil());
}

macro_rules! org_scoped_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            pub org: OrgId,
            pub local: Uuid,
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.write(&mut [0; TEXT_BYTES_MAX]))
            }
        }

        impl $name {
            fn write(self, text: &mut [u8; TEXT_BYTES_MAX]) -> &str {
                write(text, concat!($prefix, "_"), &[self.org.0, self.local])
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<$name, IdError> {
                let parse = |rest: &str| {
                    let (org, local) = rest.split_at_checked(32)?;
                    let local = Uuid::try_parse(local).ok().filter(|_| local.len() == 32)?;
                    Some($name { org: OrgId(Uuid::try_parse(org).ok()?), local })
                };
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(parse)
                    .ok_or(IdError { kind: $kind, prefix: $prefix })
            }
        }

        text_id!($name, $prefix);
    };
}

org_scoped_id!(
    /// A hold on an org's balance.
    ReservationId, "rsv", "reservation"
);
org_scoped_id!(
    /// The public half of a key.
    KeyId, "key", "key"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_id_names_its_org() {
        let id = ReservationId { org: OrgId(Uuid::from_u128(7)), local: Uuid::from_u128(9) };

        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string()[..40].parse::<ReservationId>().is_err());
        assert!("rsv_é".parse::<ReservationId>().is_err());
    }

    #[test]
    fn a_map_that_was_large_gives_back_its_room() {
        let mut map = IdMap::default();
        map.extend((0..10_000).map(|id| (id, id)));

        assert!((0..10_000).all(|id| take(&mut map, &id) == Some(id)));

        assert!(map.capacity() < 2 * ROOM_KEPT);
        assert_eq!(take(&mut map, &0), None);
    }
}
