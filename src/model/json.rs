//! Canonical JSON: one text for one value, so that texts can be hashed and compared.
//!
//! Keys sorted bytewise, no whitespace, shortest floats that read back to the same bits, integers as integers. The
//! floats are those of `serde_json` (Ryu); `1.0` and `1` stay different, as they are different values in Rust.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The canonical text of a value.
///
/// ```
/// use serde_json::json;
/// let text = nystream::model::json::canonical(&json!({"b": [1, 2.5, null], "a": {"z": "é", "y": 1e-7}}));
/// assert_eq!(text, r#"{"a":{"y":1e-7,"z":"é"},"b":[1,2.5,null]}"#);
/// ```
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            // Sorted here: the map keeps insertion order when a dependency asks serde_json for that.
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            text.push('{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(&Value::String(key.clone()), text);
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        leaf => text.push_str(&leaf.to_string()),
    }
}

/// `value` as JSON, refused unless it reads back as the same value.
///
/// JSON has no NaN and no infinity: `serde_json` writes them as null, silently. Reading back finds them.
///
/// ```
/// use nystream::model::json::faithful;
/// assert_eq!(faithful(&vec![1.0, -0.5]).unwrap(), serde_json::json!([1.0, -0.5]));
/// assert!(faithful(&vec![1.0, f64::NAN]).is_err());
/// ```
///
/// # Errors
/// What could not be represented.
pub fn faithful<T: Serialize + DeserializeOwned + PartialEq>(value: &T) -> Result<Value, String> {
    let json = serde_json::to_value(value).map_err(|e| e.to_string())?;
    let again: T = T::deserialize(&json).map_err(|e| format!("{e} (a number that is not finite?)"))?;
    if again != *value {
        return Err("a number is not finite, or a value does not read back as itself".to_string());
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nystream_hashing::{RowId, StreamKey};

    #[test]
    fn floats_keep_their_bits() {
        let key = StreamKey::new(3, "json", 0);
        let specials = [0.0, -0.0, 1.0, 1e21, 5e-324, f64::MAX, f64::MIN_POSITIVE, 0.1 + 0.2];
        let hashed = (0..20_000).map(|i| f64::from_bits(key.u64(RowId(i)))).filter(|x| x.is_finite());
        for x in specials.into_iter().chain(hashed) {
            let text = canonical(&serde_json::json!({ "x": x }));
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["x"].as_f64().map(f64::to_bits), Some(x.to_bits()), "{text}");
            assert_eq!(canonical(&value), text);
        }
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(faithful(&vec![1.0, bad]).is_err());
            assert!(faithful(&Some(bad)).is_err());
        }
        assert!(faithful(&vec![1.0, -2.5]).is_ok());
    }
}
