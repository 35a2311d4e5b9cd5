use std::process::ExitCode;

fn main() -> ExitCode {
    forgetd::cli::main()
}
