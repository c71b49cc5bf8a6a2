//! Which kernel this is.

/// Major and minor number of a release like `6.12.4-amd64`; `None` where it does not begin with two numbers.
#[must_use]
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Whether this kernel is of a version or a later one. One whose release says nothing is taken for an old one.
#[must_use]
pub fn is_at_least(wanted: (u32, u32)) -> bool {
    version(&rustix::system::uname().release().to_string_lossy()).is_some_and(|found| found >= wanted)
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_read_from_releases_of_distributions() {
        let releases = ["6.12.117+deb12-amd64", "6.18.44", "7.0", "6.1.0-57-amd64", "5.15.0", "6.12-rc3"];
        assert_eq!(releases.map(version), [(6, 12), (6, 18), (7, 0), (6, 1), (5, 15), (6, 12)].map(Some));
    }

    #[test]
    fn what_is_no_release_has_no_version() {
        assert_eq!(["", "linux", "6", "6.x"].map(version), [None; 4]);
    }
}
