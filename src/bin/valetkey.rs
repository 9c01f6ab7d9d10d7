//! The command: `valetkey run` itself, and the way to the operator's commands.

use valetkey::secret::WipingAllocator;

// The system's own allocator: the launcher lives beside each tool, and should be small and start at once.
#[global_allocator]
static ALLOCATOR: WipingAllocator<std::alloc::System> = WipingAllocator::over(std::alloc::System);

fn main() -> std::process::ExitCode {
    valetkey::run::main()
}
