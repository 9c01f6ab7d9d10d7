//! Whether this process can see what its configuration tells callers by.

use crate::{
    attest::SeenIds,
    config::Config,
    policy::{Account, RunAs, ToolPolicy},
};

/// A reason for each tool that would fit nobody, because the kernel does not show this process its user or group.
pub fn unseen_accounts(config: &Config) -> Vec<String> {
    let seen = match SeenIds::of_this_process() {
        Ok(seen) => seen,
        Err(error) => return vec![format!("which users this process sees cannot be told: /proc/self: {error}")],
    };
    let hidden = |what: &str, account: &Account| {
        format!(
            "{what} {} ({}) is hidden from the daemon, which runs in a user namespace of its own (PrivateUsers=): put \
             systemd/user-selectors.conf into valetkeyd.service.d, or tell by `unit`",
            account.name, account.id
        )
    };
    let of_tool = |tool: &ToolPolicy| {
        let user = tool.run_as.user.as_ref().filter(|user| !seen.has_user(user.id)).map(|user| hidden("user", user));
        let group = tool.run_as.group.as_ref().filter(|group| !seen.has_group(group.id)).map(|group| hidden("group", group));
        user.into_iter().chain(group).map(|why| format!("{}: {why}", tool.origin)).collect::<Vec<_>>()
    };
    let of_role = |run_as: &RunAs| {
        let user = run_as.user.as_ref().filter(|user| !seen.has_user(user.id)).map(|user| hidden("user", user));
        let group = run_as.group.as_ref().filter(|group| !seen.has_group(group.id)).map(|group| hidden("group", group));
        user.into_iter().chain(group).map(|why| format!("[roles]: {why}")).collect::<Vec<_>>()
    };
    let roles = config.policy.roles().selectors().flat_map(of_role);
    let admins = config.daemon.admin_group.as_ref().filter(|group| !seen.has_group(group.id));
    let admins = admins.map(|group| format!("`admin-group` in [daemon]: {}", hidden("group", group)));
    config.policy.tools().flat_map(|(_, tool)| of_tool(tool)).chain(admins).chain(roles).collect()
}
