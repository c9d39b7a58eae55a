//! Shell completions and man pages of both daemons, from their command definitions.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use clap::Command;
use clap_complete::Shell;

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn definitions() -> [Command; 2] {
    [hardroot_server::cli::definition(), hardroot_agent::cli::definition()]
}

/// Writes `bash/NAME`, `zsh/_NAME` and `fish/NAME.fish` for both daemons.
pub(crate) fn completions(out: &Path) -> Result<()> {
    for definition in definitions() {
        for shell in SHELLS {
            let name = definition.get_name();
            let (folder, file) = match shell {
                Shell::Zsh => ("zsh", format!("_{name}")),
                Shell::Fish => ("fish", format!("{name}.fish")),
                _ => ("bash", name.to_owned()),
            };
            let folder = out.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
            let path = folder.join(file);
            fs::write(&path, completion(shell, &definition)?)
                .with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

/// Writes `NAME.1` and `NAME-COMMAND.1` for every command of both daemons.
pub(crate) fn man(out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    for definition in definitions() {
        clap_mangen::generate_to(definition, out).with_context(|| format!("writing to {}", out.display()))?;
    }
    Ok(())
}

/// A completion script in which every flag has one dash as well as two, as the programs take them.
fn completion(shell: Shell, definition: &Command) -> Result<String> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut definition.clone(), definition.get_name().to_owned(), &mut text);
    let text = String::from_utf8(text)?;
    match shell {
        Shell::Bash => bash(&text, definition.get_name()),
        Shell::Zsh => zsh(&text),
        _ => fish(&(text + &deeper_for_fish(definition)?)),
    }
}

/// Replaces, and complains where there is nothing to replace: the generator's output has changed then.
fn replace(text: &str, from: &str, to: &str) -> Result<String> {
    ensure!(text.contains(from), "the generated completion has no {from:?}");
    Ok(text.replace(from, to))
}

/// Bash: the words to choose from lose a dash when one was typed, the flag before the cursor gets two. A program
/// whose name has a dash is called differently in two places by the generator, so that no command below it is found.
fn bash(text: &str, name: &str) -> Result<String> {
    let text = replace(text, &name.replace('-', "__subcmd__"), &name.replace('-', "__"))?;
    let text = replace(
        &text,
        "                COMPREPLY=( $(compgen -W \"${opts}\" -- \"${cur}\") )",
        "                [[ ${cur} == -* && ${cur} != --* ]] && opts=\"${opts//--/-}\"\n                \
         COMPREPLY=( $(compgen -W \"${opts}\" -- \"${cur}\") )",
    )?;
    replace(&text, "            case \"${prev}\" in", "            case \"--${prev#\"${prev%%[!-]*}\"}\" in")
}

/// Zsh: each flag stands there twice, and words of several letters are not taken for flags of one letter.
fn zsh(text: &str) -> Result<String> {
    let text = replace(text, "_arguments_options=(-s -S -C)", "_arguments_options=(-S -C)")?;
    let text = replace(&text, "_arguments_options=(-s -C)", "_arguments_options=(-C)")?;
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        // Before the flag may stand what it excludes, `(--one --other)`, or `*` where it may come again.
        let (excluded, flag) = line
            .strip_prefix("'(")
            .and_then(|rest| rest.split_once(')'))
            .map_or(("", line.strip_prefix('\'').unwrap_or_default()), |(excluded, flag)| (excluded, flag));
        let (again, flag) = flag.strip_prefix('*').map_or(("", flag), |flag| ("*", flag));
        let Some(flag) = flag.strip_prefix("--") else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let excluded = match excluded {
            "" => String::new(),
            _ => format!("({excluded} {})", excluded.replace("--", "-")),
        };
        // What a value may be goes over several lines; a backslash ends the last.
        let mut flag = flag.to_owned();
        while !flag.ends_with(" \\") {
            let Some(more) = lines.next() else { break };
            flag = format!("{flag}\n{more}");
        }
        out.push_str(&format!("'{excluded}{again}-{flag}\n'{excluded}{again}--{flag}\n"));
    }
    Ok(out)
}

/// The generator's script for fish ends at the second word below the program. The third has its lines made as the second
/// of a smaller program, under the first word's condition.
fn deeper_for_fish(definition: &Command) -> Result<String> {
    let mut out = String::new();
    for first in definition.get_subcommands() {
        for second in first.get_subcommands().filter(|second| second.has_subcommands()) {
            let smaller = Command::new("program").subcommand(second.clone());
            let mut text = Vec::new();
            clap_complete::generate(
                Shell::Fish,
                &mut smaller.clone(),
                definition.get_name().to_owned(),
                &mut text,
            );
            let text = String::from_utf8(text)?;
            let narrow = format!("using_subcommand {}; and __fish_seen_subcommand_from ", second.get_name());
            let wide = format!(
                "using_subcommand {}; and __fish_seen_subcommand_from {}; and __fish_seen_subcommand_from ",
                first.get_name(),
                second.get_name()
            );
            // A value's choices go over several lines: a piece is what stands between two `complete`.
            for piece in text.split("\ncomplete ").filter(|piece| piece.contains(&narrow)) {
                out.push_str(&format!("complete {}\n", piece.replace(&narrow, &wide).trim_end()));
            }
            ensure!(!out.is_empty(), "the generated completion has nothing below {}", second.get_name());
        }
    }
    Ok(out)
}

/// Fish: `-o` is a flag of several letters with one dash.
fn fish(text: &str) -> Result<String> {
    let mut out = String::new();
    let mut found = false;
    for line in text.lines() {
        match line.split_once(" -l ") {
            Some((before, after)) if line.starts_with("complete ") => {
                let name = after.split(' ').next().unwrap_or_default();
                out.push_str(&format!("{before} -o {name} -l {after}\n"));
                found = true;
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    ensure!(found, "the generated completion has no flags");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::process::Command as Process;

    use super::*;

    /// Every command below `command` with its names from the program's on, and the long names of its flags.
    fn commands(command: &Command, path: &[String], all: &mut Vec<(Vec<String>, Vec<String>)>) {
        let path = [path, &[command.get_name().to_owned()]].concat();
        let flags = command.get_arguments().filter(|flag| !flag.is_hide_set());
        all.push((path.clone(), flags.filter_map(|flag| flag.get_long()).map(str::to_owned).collect()));
        let shown = command.get_subcommands().filter(|below| !below.is_hide_set());
        shown.for_each(|below| commands(below, &path, all));
    }

    #[test]
    fn every_command_and_flag_has_its_place_in_the_man_pages() {
        let out = tempfile::tempdir().unwrap();
        man(out.path()).unwrap();
        for definition in definitions() {
            let mut all = Vec::new();
            commands(&definition, &[], &mut all);
            assert!(all.len() > 5);
            for (path, flags) in all {
                let page = out.path().join(format!("{}.1", path.join("-")));
                let text = fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
                for flag in flags {
                    let shown = format!("\\-\\-{}", flag.replace('-', "\\-"));
                    assert!(text.contains(&shown), "{path:?} does not explain {flag}");
                }
            }
        }
    }

    #[test]
    fn every_command_and_flag_completes_with_one_dash_and_two() {
        let out = tempfile::tempdir().unwrap();
        completions(out.path()).unwrap();
        for definition in definitions() {
            let name = definition.get_name();
            let read = |file: String| fs::read_to_string(out.path().join(file)).unwrap();
            let (zsh, fish) = (read(format!("zsh/_{name}")), read(format!("fish/{name}.fish")));
            let mut all = Vec::new();
            commands(&definition, &[], &mut all);
            let mut questions = String::new();
            for (path, flags) in &all {
                let below = path.get(1..).unwrap();
                assert!(below.iter().all(|word| zsh.contains(word) && fish.contains(word)), "{path:?}");
                for flag in flags {
                    assert!(fish.contains(&format!(" -o {flag} -l {flag} ")), "fish: {path:?} {flag}");
                    for dashes in ["-", "--"] {
                        let known = ["'", "'*", ")"].iter().any(|start| {
                            zsh.contains(&format!("{start}{dashes}{flag}="))
                                || zsh.contains(&format!("{start}{dashes}{flag}["))
                        });
                        assert!(known, "zsh: {path:?} {dashes}{flag}");
                        let words = [path.as_slice(), &[format!("{dashes}{flag}")]].concat().join(" ");
                        questions.push_str(&format!("ask {words}\n"));
                    }
                }
                for command in all.iter().filter(|(p, _)| p.len() == path.len() + 1 && p.starts_with(path)) {
                    questions.push_str(&format!("ask {}\n", command.0.join(" ")));
                }
            }
            for (shell, script) in [("zsh", format!("zsh/_{name}")), ("fish", format!("fish/{name}.fish"))] {
                let read = Process::new(shell).arg("-n").arg(out.path().join(&script)).output().expect(shell);
                assert!(read.status.success(), "{script}: {}", String::from_utf8_lossy(&read.stderr));
            }
            // Bash itself says what the last word may become: itself among them.
            let script = out.path().join("bash").join(name);
            let function = name.replace('-', "__");
            let ask = format!(
                "source {}\nask() {{ COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMPREPLY=()\n\
                 _{function} {name} \"${{@: -1}}\" \"${{@: -2:1}}\"\n\
                 for word in \"${{COMPREPLY[@]}}\"; do [ \"$word\" = \"${{@: -1}}\" ] && return; done\n\
                 echo \"$*: ${{COMPREPLY[*]}}\"; }}\n{questions}",
                script.display()
            );
            let told = Process::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&told.stderr), "");
            assert_eq!(String::from_utf8_lossy(&told.stdout), "", "what does not complete");
        }
    }

    #[test]
    fn a_value_completes_after_one_dash_too() {
        let definition = hardroot_server::cli::definition();
        let script = completion(Shell::Bash, &definition).unwrap();
        let ask = format!(
            "{script}\nCOMP_WORDS=(hardroot-server bundle show -format s); COMP_CWORD=4\n\
             _hardroot__server hardroot-server s -format\necho \"${{COMPREPLY[*]}}\""
        );
        let told = Process::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&told.stdout), "spiffe\n");
    }
}
