//! Writes the man pages and the shells' completions of every program: `manuals DIRECTORY`.
//!
//! Everything comes from the table that the program itself is run by; `make man` calls this.
//!
//! | below the directory | what |
//! |---|---|
//! | `man/NAME.1` | the page |
//! | `completions/bash/NAME` `completions/zsh/_NAME` `completions/fish/NAME.fish` | completions |

use std::fs;
use std::path::Path;

use anyhow::Context;
use program::{completion, manual};
use tests::PROGRAMS;

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os().nth(1).context("usage: manuals DIRECTORY")?;
    let directory = Path::new(&directory);
    for program in PROGRAMS {
        let name = program.name;
        write(&directory.join(format!("man/{name}.1")), &manual::page(program))?;
        write(&directory.join(format!("completions/bash/{name}")), &completion::bash(program))?;
        write(&directory.join(format!("completions/zsh/_{name}")), &completion::zsh(program))?;
        write(&directory.join(format!("completions/fish/{name}.fish")), &completion::fish(program))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}
