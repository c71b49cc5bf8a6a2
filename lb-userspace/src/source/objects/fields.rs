//! Fields of an object whose `spec` stays open, so that one bad field spoils no other.
use std::borrow::Cow;

use serde_json::{Map, Value};

use super::Faults;

/// A number, its bounds and what holds without it.
pub(super) struct Setting {
    pub(super) field: &'static str,
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) default: u32,
}

/// A part of `spec`, and what is wrong with it.
pub(super) struct Reader<'a> {
    /// As a path: `spec.healthCheck`.
    name: &'static str,
    fields: Cow<'a, Map<String, Value>>,
    faults: &'a mut Faults,
}

impl<'a> Reader<'a> {
    /// The fields of an object; of anything else there is nothing to read.
    pub(super) fn of(name: &'static str, value: &'a Value, faults: &'a mut Faults) -> Option<Self> {
        let fields = Cow::Borrowed(part(name, value, faults)?);
        Some(Self { name, fields, faults })
    }

    pub(super) fn take(&mut self, field: &str) -> Option<Value> {
        self.fields.to_mut().remove(field).filter(|value| !value.is_null())
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.fields.get(field).is_some_and(|value| !value.is_null())
    }

    pub(super) fn fault(&mut self, field: &str, what: &str) {
        self.faults.add(format!("{}.{field} {what}", self.name));
    }

    /// Names the fields that nobody has taken.
    pub(super) fn name_unknown(&mut self) {
        let left: Vec<String> = self.fields.keys().cloned().collect();
        for field in left {
            self.fault(&field, "is unknown; the rest holds");
        }
    }

    pub(super) fn number(&mut self, setting: &Setting) -> Option<u32> {
        let Setting { field, min, max, default } = *setting;
        let value = self.take(field)?;
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() {
            let instead = if (min..=max).contains(&default) && default != 0 {
                format!("{default} is used")
            } else {
                "it is left out".to_owned()
            };
            self.fault(field, &format!("{value} is not a whole number between {min} and {max}; {instead}"));
        }
        number
    }

    pub(super) fn number_or_default(&mut self, setting: &Setting) -> u32 {
        self.number(setting).unwrap_or(setting.default)
    }

    /// A truth value; a bad one counts as absent.
    pub(super) fn boolean(&mut self, field: &str) -> Option<bool> {
        let value = self.take(field)?;
        if value.as_bool().is_none() {
            self.fault(field, &format!("{value} is neither true nor false; it is left out"));
        }
        value.as_bool()
    }
}

/// The fields of an object; absent is none.
pub(super) fn part<'a>(name: &str, value: &'a Value, faults: &mut Faults) -> Option<&'a Map<String, Value>> {
    if !value.is_object() && !value.is_null() {
        faults.add(format!("{name} is not an object; nothing of it holds"));
    }
    value.as_object()
}
