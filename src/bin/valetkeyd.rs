//! The daemon; and the operator's commands, where it is called by another name.

#[global_allocator]
static ALLOCATOR: valetkey::secret::WipingAllocator = valetkey::secret::WipingAllocator::new();

fn main() -> std::process::ExitCode {
    #[cfg(feature = "cli")]
    if valetkey::cli::is_called() {
        return valetkey::cli::main();
    }
    valetkey::daemon::main()
}
