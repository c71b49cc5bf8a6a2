//! Which kernel this is.

/// Whether it is no older than a version.
///
/// # Panics
/// Its release does not begin with two numbers.
#[must_use]
pub fn is_at_least(version: (u32, u32)) -> bool {
    let uname = rustix::system::uname();
    let mut numbers = uname.release().to_str().into_iter().flat_map(|text| text.split('.')).map(str::parse);
    let mut next =
        || numbers.next().and_then(Result::ok).expect("a kernel's release begins with two numbers");
    (next(), next()) >= version
}
