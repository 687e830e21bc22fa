//! The processes of an instance by number, with their groups and sessions (setpgid(2), setsid(2)).

use crate::errno::{EPERM, ESRCH, Errno};
use crate::machine::Tid;
use crate::process::Process;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One process, as others find it.
#[derive(Clone, Debug)]
pub struct Member {
    pub group: Tid,
    pub session: Tid,
    /// None while it is in the making.
    pub process: Weak<Process>,
}

/// All that live.
#[derive(Default)]
pub struct Groups(Mutex<BTreeMap<Tid, Member>>);

impl Groups {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Tid, Member>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A child of `parent` is to be: in its group and session.
    pub fn enter(&self, pid: Tid, parent: Tid) {
        let mut members = self.lock();
        let (group, session) = members
            .get(&parent)
            .map_or((pid, pid), |m| (m.group, m.session));
        let member = Member {
            group,
            session,
            process: Weak::new(),
        };
        members.insert(pid, member);
    }

    /// A process is there. The first one leads a group and a session.
    pub fn attach(&self, pid: Tid, process: &Arc<Process>) {
        let process = Arc::downgrade(process);
        let mut members = self.lock();
        if let Some(member) = members.get_mut(&pid) {
            member.process = process;
        } else {
            let member = Member {
                group: pid,
                session: pid,
                process,
            };
            members.insert(pid, member);
        }
    }

    /// The first process has another number from here on.
    pub fn rename(&self, old: Tid, new: Tid) {
        let mut members = self.lock();
        if let Some(mut member) = members.remove(&old) {
            (member.group, member.session) = (new, new);
            members.insert(new, member);
        }
    }

    /// A process is gone; the group that it was in.
    pub fn leave(&self, pid: Tid) -> Tid {
        self.lock().remove(&pid).map_or(pid, |m| m.group)
    }

    /// Group and session of a process, and where to find it.
    ///
    /// # Errors
    /// ESRCH.
    pub fn get(&self, pid: Tid) -> Result<Member, Errno> {
        self.lock().get(&pid).cloned().ok_or(ESRCH)
    }

    /// Those that are wanted.
    pub fn select(&self, wanted: impl Fn(Tid, &Member) -> bool) -> Vec<(Tid, Arc<Process>)> {
        let members = self.lock();
        members
            .iter()
            .filter(|(pid, member)| wanted(**pid, member))
            .filter_map(|(pid, member)| Some((*pid, member.process.upgrade()?)))
            .collect()
    }

    /// setpgid(2), for a process that is known to be the caller or its child.
    ///
    /// # Errors
    /// ESRCH; EPERM for a session's leader, and for a group of another session or of nobody.
    pub fn join(&self, pid: Tid, group: Tid) -> Result<(), Errno> {
        let mut members = self.lock();
        let session = members.get(&pid).ok_or(ESRCH)?.session;
        let there = members
            .values()
            .any(|m| m.group == group && m.session == session);
        if session == pid || group != pid && !there {
            return Err(EPERM);
        }
        if let Some(member) = members.get_mut(&pid) {
            member.group = group;
        }
        Ok(())
    }

    /// setsid(2).
    ///
    /// # Errors
    /// EPERM for a group's leader; ESRCH.
    pub fn lead(&self, pid: Tid) -> Result<(), Errno> {
        let mut members = self.lock();
        if members.values().any(|m| m.group == pid) {
            return Err(EPERM);
        }
        let member = members.get_mut(&pid).ok_or(ESRCH)?;
        (member.group, member.session) = (pid, pid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn groups_and_sessions_follow_their_rules() {
        let groups = Groups::default();
        groups.enter(1, 0); // as the first
        groups.enter(2, 1);
        groups.enter(3, 2);
        assert_eq!(groups.get(3).unwrap().group, 1);
        assert_eq!(groups.lead(1), Err(EPERM), "it leads its group");
        assert_eq!(groups.join(1, 1), Err(EPERM), "it leads its session");
        groups.join(2, 2).unwrap();
        groups.join(3, 2).unwrap();
        assert_eq!(groups.join(3, 9), Err(EPERM), "nobody is there");
        groups.lead(3).unwrap();
        assert_eq!(groups.join(2, 3), Err(EPERM), "of another session");
        assert_eq!(groups.leave(3), 3);
        assert_eq!(groups.get(3).unwrap_err(), ESRCH);
    }
}
