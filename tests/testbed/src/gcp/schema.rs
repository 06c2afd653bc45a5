//! Checks bodies against the schemas of the discovery document, more strictly than Google
//! does: a client that sends a field which is output only, or a number as text, has a mistake
//! even where Google is lenient.

use serde_json::Value;

use super::discovery::Discovery;
use super::refusal::Refusal;

impl Discovery {
    /// Checks a value against a schema of this name. `method` is the call's, since some fields
    /// are required by some methods: `firewalls.insert`.
    pub(super) fn check_schema(&self, schema: &str, value: &Value, method: &str) -> Result<(), Refusal> {
        let schema = self.schemas.get(schema).ok_or_else(|| Refusal::not_implemented(schema))?;
        self.check_value(schema, value, "resource", method)
    }

    fn check_value(&self, schema: &Value, value: &Value, at: &str, method: &str) -> Result<(), Refusal> {
        if let Some(name) = schema["$ref"].as_str() {
            let schema = self.schemas.get(name).ok_or_else(|| Refusal::not_implemented(name))?;
            return self.check_value(schema, value, at, method);
        }
        // In JSON of protocol buffers, null is a field that is not set; a patch clears it.
        if value.is_null() {
            return Ok(());
        }
        match (schema["type"].as_str(), value) {
            (Some("object"), Value::Object(_)) => self.check_object(schema, value, at, method),
            (Some("array"), Value::Array(elements)) => {
                let mut elements = elements.iter().enumerate();
                elements.try_for_each(|(index, element)| {
                    self.check_value(&schema["items"], element, &format!("{at}[{index}]"), method)
                })
            }
            (Some("string"), Value::String(text)) => self.check_text(schema, text, at),
            (Some("integer"), Value::Number(number)) => {
                let is_in_range = match schema["format"].as_str() {
                    Some("uint32") => number.as_u64().is_some_and(|number| u32::try_from(number).is_ok()),
                    _ => number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
                };
                if is_in_range { Ok(()) } else { Err(of_another_type(schema, value, at)) }
            }
            (Some("number"), Value::Number(_)) | (Some("boolean"), Value::Bool(_)) | (Some("any"), _) => Ok(()),
            _ => Err(of_another_type(schema, value, at)),
        }
    }

    fn check_object(&self, schema: &Value, value: &Value, at: &str, method: &str) -> Result<(), Refusal> {
        let Some(fields) = value.as_object() else { return Err(of_another_type(schema, value, at)) };
        for (name, value) in fields {
            let at = format!("{at}.{name}");
            let known = schema["properties"].get(name);
            let known = known.or_else(|| schema.get("additionalProperties")).ok_or_else(|| {
                let message =
                    format!("Invalid JSON payload received. Unknown name \"{name}\" at '{at}': Cannot find field.");
                Refusal::malformed(message)
            })?;
            if is_output_only(known) {
                return Err(Refusal::invalid(&at, &value.to_string(), "The field is output only."));
            }
            self.check_value(known, value, &at, method)?;
        }
        let required = |schema: &Value| {
            let methods = schema["annotations"]["required"].as_array();
            methods.is_some_and(|methods| methods.iter().any(|name| name == &format!("compute.{method}")))
        };
        let properties = schema["properties"].as_object();
        let missing = properties
            .into_iter()
            .flatten()
            .find(|(name, schema)| required(schema) && fields.get(*name).is_none_or(Value::is_null));
        missing.map_or(Ok(()), |(name, _)| Err(Refusal::required(&format!("{at}.{name}"))))
    }

    fn check_text(&self, schema: &Value, text: &str, at: &str) -> Result<(), Refusal> {
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.iter().any(|value| value == text)
        {
            return Err(Refusal::invalid(at, text, "It is not one of the values of the field's type."));
        }
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_of_format = match schema["format"].as_str() {
            Some("uint64") => is_number(text),
            Some("int64") => is_number(text.strip_prefix('-').unwrap_or(text)),
            _ => true,
        };
        if !is_of_format {
            return Err(Refusal::invalid(at, text, "It is of another format."));
        }
        self.check_pattern(at, text, schema)
    }
}

/// Some fields have it as a property, others in their description alone.
fn is_output_only(schema: &Value) -> bool {
    let description = schema["description"].as_str().unwrap_or_default();
    schema["readOnly"] == true || description.starts_with("[Output Only]")
}

fn of_another_type(schema: &Value, value: &Value, at: &str) -> Refusal {
    let wanted = schema["format"].as_str().or_else(|| schema["type"].as_str()).unwrap_or_default();
    Refusal::malformed(format!("Invalid value at '{at}' ({wanted}), {value}"))
}
