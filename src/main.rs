//! The process: arguments, one visible choice, one exit code. Every way out is a return from here, so that the node
//! drains and the log is closed.

use std::io::Write;
use std::process::ExitCode;

use aquifer::{Args, Command};
use clap::Parser;

/// `verify` has found something.
const DAMAGED: u8 = 1;
/// `verify` could not look.
const CANNOT_LOOK: u8 = 2;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(usage) => {
            // `--help` and `--version` come this way too, with code 0; nothing can be done about a closed terminal.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match args.command {
        Command::Serve(flags) => aquifer::serve(&flags),
        Command::Demo(flags) => aquifer::demo(&flags),
        Command::Verify(flags) => match aquifer::verify(&flags) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::from(DAMAGED),
            Err(failure) => {
                let _ = writeln!(std::io::stderr(), "aquifer: {}", failure.one_line());
                return ExitCode::from(CANNOT_LOOK);
            }
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "aquifer: {}", failure.one_line());
            ExitCode::from(failure.exit_code())
        }
    }
}
