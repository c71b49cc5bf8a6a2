//! What Ingresses ask for.
use serde::Serialize;

/// Whose rules hold where the Ingress specification and Google's load balancers differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// The Ingress specification.
    #[default]
    Spec,
    /// Google's load balancers.
    Gce,
}

/// `pathType` of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum PathType {
    /// The path alone.
    Exact,
    /// By elements.
    Prefix,
    /// As the [`Dialect`] says.
    ImplementationSpecific,
}
