//! The command: `valetkey run` itself, and the way to the operator's commands.

use dlmalloc::GlobalDlmalloc;
use valetkey::secret::WipingAllocator;

// The launcher lives beside each tool, and should be small and start at once: one heap for all threads, which asks the kernel seldom.
#[global_allocator]
static ALLOCATOR: WipingAllocator<GlobalDlmalloc> = WipingAllocator::over(GlobalDlmalloc);

fn main() -> std::process::ExitCode {
    valetkey::run::main()
}
