//! A ServiceCIDR as a fact (KEP-1880).
use k8s_openapi::api::networking::v1::ServiceCIDR as Object;

use super::{Converted, Faults, name_of, prefix};
use crate::model::{Change, ServiceCidr};
use crate::source::Interner;

/// The fact that a ServiceCIDR stands for. One that is being deleted still holds: addresses of it are
/// given back before it goes.
#[must_use]
pub fn service_cidr(object: &Object, _: &mut Interner) -> Converted {
    let name = name_of(&object.metadata);
    let mut faults = Faults::of("ServiceCIDR", &name);
    let mut prefixes = Vec::new();
    for text in object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()) {
        match prefix(text) {
            Some(prefix) => prefixes.push(prefix),
            None => faults.add(format!("spec.cidrs: {text:?} is not an address prefix; it is left out")),
        }
    }
    let resource_version = object.metadata.resource_version.as_deref().unwrap_or_default().into();
    faults.with(Change::ServiceCidr(ServiceCidr { name: name.name, resource_version, prefixes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_prefix_is_named_and_the_others_hold() {
        let yaml = "
            metadata: {name: kubernetes, resourceVersion: '3'}
            spec: {cidrs: [10.96.0.0/12, 10.96.0.0, '2001:db8:96::/112']}
            ";
        let object = serde_yaml_ng::from_str(yaml).expect("test YAML");
        let converted = service_cidr(&object, &mut Interner::default());
        let expected = ServiceCidr {
            name: "kubernetes".into(),
            resource_version: "3".into(),
            prefixes: vec![("10.96.0.0".parse().unwrap(), 12), ("2001:db8:96::".parse().unwrap(), 112)],
        };
        assert_eq!(converted.change, Change::ServiceCidr(expected));
        let messages: Vec<&str> = converted.problems.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(messages, ["spec.cidrs: \"10.96.0.0\" is not an address prefix; it is left out"]);
    }
}
