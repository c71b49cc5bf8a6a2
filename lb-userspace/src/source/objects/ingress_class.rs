//! An IngressClass as a fact (KEP-1453).
use std::sync::Arc;

use k8s_openapi::api::networking::v1::IngressClass as Object;

use super::{Converted, Faults, name_of};
use crate::model::{Change, INGRESS_CONTROLLER, IngressClass};
use crate::source::Interner;

/// On one class: Ingresses without a class are of this one.
const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// The fact that an IngressClass stands for, whose-ever it is.
#[must_use]
pub fn ingress_class(object: &Object, interner: &mut Interner) -> Converted {
    let name = name_of(&object.metadata);
    let mut faults = Faults::of("IngressClass", &name);
    let spec = object.spec.as_ref();
    let controller = spec.and_then(|spec| spec.controller.as_deref()).unwrap_or_default();
    if controller == INGRESS_CONTROLLER && spec.is_some_and(|spec| spec.parameters.is_some()) {
        faults.add("spec.parameters is not read; the class holds without".to_owned());
    }
    let annotations = object.metadata.annotations.as_ref();
    let is_default = annotations.and_then(|all| all.get(IS_DEFAULT)).is_some_and(|value| value == "true");
    faults.with(Change::IngressClass(IngressClass {
        name: Arc::clone(&name.name),
        resource_version: object.metadata.resource_version.as_deref().unwrap_or_default().into(),
        controller: interner.shared(controller),
        is_default,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_a_controller_and_may_be_the_default() {
        let yaml = "
            metadata:
              {name: podway, resourceVersion: '3', annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}
            spec: {controller: podway.io/ingress, parameters: {kind: Anything, name: a}}
            ";
        let object = serde_yaml_ng::from_str(yaml).expect("test YAML");
        let converted = ingress_class(&object, &mut Interner::default());
        let expected = IngressClass {
            name: "podway".into(),
            resource_version: "3".into(),
            controller: "podway.io/ingress".into(),
            is_default: true,
        };
        assert_eq!(converted.change, Change::IngressClass(expected));
        let messages: Vec<&str> = converted.problems.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(messages, ["spec.parameters is not read; the class holds without"]);
    }
}
