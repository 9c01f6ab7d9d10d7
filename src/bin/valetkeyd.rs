//! The daemon.

#[global_allocator]
static ALLOCATOR: valetkey::secret::WipingAllocator = valetkey::secret::WipingAllocator::new();

fn main() -> std::process::ExitCode {
    valetkey::daemon::main()
}
