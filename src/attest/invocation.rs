//! Which start of its unit a process belongs to, and whether that is still the last.
//!
//! systemd tells it in two places. The link `/run/systemd/units/invocation:UNIT` is made anew at each start, and is systemd's own: journald
//! goes by it. The attribute `user.invocation_id` of the unit's cgroup is read where there is no such link. It is of the start that made
//! the cgroup, which stays where a process has outlived its unit (`KillMode=process`), and a unit that has its cgroup delegated can write
//! it: it says which run this is as far as the unit does not lie about itself, and never which unit.

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::fs::{Mode, OFlags};

use super::unit::is_invocation;

const LENGTH: usize = 32;

/// The folder of the links.
#[derive(Debug, Clone)]
pub struct Units(Arc<OwnedFd>);

impl Units {
    /// `None`: no systemd runs here, or it cannot be seen.
    pub fn find() -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open("/run/systemd/units", flags, Mode::empty()).ok().map(|folder| Self(Arc::new(folder)))
    }
}

/// One start of a unit. About half a microsecond to ask.
#[derive(Debug)]
pub struct Run {
    told: Told,
    invocation: [u8; LENGTH],
}

#[derive(Debug)]
enum Told {
    /// By the link of this name.
    Link(Units, CString),
    /// By the attribute of this cgroup.
    Attribute(OwnedFd),
}

impl Run {
    /// The present run of a unit with this cgroup. `None`: nothing tells starts apart.
    pub fn of(unit: &str, cgroup: &Path, units: Option<&Units>) -> Option<Self> {
        let link = units.and_then(|units| Some(Told::Link(units.clone(), CString::new(format!("invocation:{unit}")).ok()?)));
        let by_link = link.and_then(Self::told);
        by_link.or_else(|| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Self::told(Told::Attribute(rustix::fs::open(cgroup, flags, Mode::empty()).ok()?))
        })
    }

    fn told(told: Told) -> Option<Self> {
        told.read().map(|invocation| Self { told, invocation })
    }

    pub fn invocation(&self) -> &str {
        // It was read as hex digits.
        std::str::from_utf8(&self.invocation).unwrap_or_default()
    }

    /// Has the unit not been started again, nor stopped?
    pub fn is_the_last(&self) -> bool {
        self.told.read() == Some(self.invocation)
    }
}

impl Told {
    fn read(&self) -> Option<[u8; LENGTH]> {
        let mut value = [0; LENGTH + 1];
        let length = match self {
            Self::Link(units, name) => rustix::fs::readlinkat_raw(units.0.as_fd(), name.as_c_str(), &mut value[..]),
            Self::Attribute(cgroup) => rustix::fs::fgetxattr(cgroup, "user.invocation_id", &mut value[..]),
        };
        let told = value.get(..length.ok()?)?;
        std::str::from_utf8(told).ok().filter(|text| is_invocation(text))?;
        told.try_into().ok()
    }
}
