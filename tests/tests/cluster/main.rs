//! The Kubernetes source against an API server: every way in which lists and watches go, and fail.
//! What must hold in all of them: in the end the facts are the server's objects, and no fact goes
//! that the server has not deleted.
mod by_name;
mod events;
mod faults;
mod gates;
mod ingress_status;
mod kubeconfig;
mod lb_pool;
mod manifests;
mod neg_status;
mod observer;
mod peers;
mod real;
mod rights;
mod secrets;
mod several;
mod stale;
mod watching;
