//! Whose an Ingress is.
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{ClassChoice, INGRESS_CONTROLLER, Ingress, IngressClass};

/// What the annotation may say where there is no IngressClass: it is older than these.
const ANNOTATED_CLASS: &str = "podway";

/// Whether an Ingress is ours, by its class (KEP-1453, "IngressClass"); `Err` says why not.
pub(super) fn check(
    ingress: &Ingress,
    classes: &BTreeMap<Arc<str>, Arc<IngressClass>>,
) -> Result<(), String> {
    match &ingress.class {
        ClassChoice::Annotation(name) if **name == *ANNOTATED_CLASS && !classes.contains_key(name) => Ok(()),
        ClassChoice::Annotation(name) | ClassChoice::Field(name) => match classes.get(name) {
            Some(class) => of_controller(class),
            None => Err(format!("there is no IngressClass {name}")),
        },
        ClassChoice::Default => {
            let mut defaults = classes.values().filter(|class| class.is_default);
            match (defaults.next(), defaults.next()) {
                (Some(class), None) => of_controller(class),
                (None, _) => Err("it names no class, and no IngressClass is the default".to_owned()),
                (Some(a), Some(b)) => Err(format!(
                    "it names no class, and IngressClasses {} and {} are both the default",
                    a.name, b.name
                )),
            }
        }
    }
}

fn of_controller(class: &IngressClass) -> Result<(), String> {
    if *class.controller == *INGRESS_CONTROLLER {
        return Ok(());
    }
    Err(format!(
        "IngressClass {} is of the controller {:?}, not {INGRESS_CONTROLLER:?}",
        class.name, class.controller
    ))
}
