//! Taking credentials out of all texts of a JSON value, whatever field they stand in.
//!
//! Pure. Everything that leaves as JSON goes through here whole, so that a field that is added later cannot be forgotten.

use serde_json::Value;

use crate::pipeline::redact::without_credentials;

/// Takes credentials out of every text, and cuts those that are longer than `longest` bytes.
pub(super) fn clean(value: &mut Value, longest: usize) {
    match value {
        Value::String(text) => {
            if text.contains("://") {
                *text = without_credentials(text);
            }
            if text.len() > longest {
                let end = (0..=longest)
                    .rev()
                    .find(|end| text.is_char_boundary(*end))
                    .unwrap_or(0);
                text.truncate(end);
                text.push('…');
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| clean(item, longest)),
        Value::Object(fields) => fields.values_mut().for_each(|field| clean(field, longest)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
