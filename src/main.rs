use std::process::ExitCode;

/// Tensors come and go by the megabyte. The C library's allocator gives such memory back to the
/// system each time, and taking it again costs half the time of a training step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    forgetd::cli::main()
}
