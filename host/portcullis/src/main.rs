//! The `portcullis` binary: the command line, and the assembly of the gateway.
// A call's future is made of the futures of everything on its way, and the compiler looks at all of them.
#![recursion_limit = "256"]

mod assembly;
mod cli;
mod demo;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod documented;
mod drain;
mod dumps;
mod exit;
mod home;
mod lanes;
mod listener;
mod mcp;
mod opening;
mod output;
mod remote;
mod settings;
mod verbs;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    dumps::none();
    // Before anything else: a supervisor starts with each server's process, a compiler with each new component, and neither needs
    // anything of what follows.
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(first) if first == "supervise" => portcullis_child::supervise_main(args),
        Some(first) if first == portcullis_plugin::COMPILE => portcullis_plugin::compile_main(args),
        _ => {}
    }
    cli::run()
}
