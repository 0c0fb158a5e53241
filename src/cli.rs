//! The command line: `serve`, `token`, `migrate`, `openapi`, `check`.

mod signals;
mod token;

use crate::api::openapi;
use crate::app::{self, Addresses, StartError};
use crate::config::{Config, LogFormat, SETTINGS, Setting, Visibility};
use crate::telemetry::{self, TelemetrySettings};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

/// The exit code for a wrong setting or argument; 1 is for everything that fails later.
const USAGE: u8 = 2;

/// Does what the command line says; the exit code of the process.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    match matches.subcommand() {
        Some(("openapi", arguments)) => print_openapi(arguments),
        Some(("token", arguments)) => with_config(arguments, print_token),
        Some(("check", arguments)) => with_config(arguments, |config, _| check(&config)),
        Some(("migrate", arguments)) => with_config(arguments, |config, _| migrate(&config)),
        Some((_, arguments)) => with_config(arguments, |config, _| serve(config)),
        None => with_config(&matches, |config, _| serve(config)),
    }
}

fn command() -> Command {
    let about =
        "Realtime as a service: publish JSON over REST, receive it over wss in the same instant";
    Command::new("herald")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .after_help(
            "Without a command: serve. Every setting is an environment variable too; those of secrets are only that.",
        )
        .args(settings())
        .args_conflicts_with_subcommands(true)
        .subcommand(Command::new("serve").about("Run the service (the default)").args(settings()))
        .subcommand(token::command().args(settings()))
        .subcommand(Command::new("migrate").about("Apply the migrations and end").args(settings()))
        .subcommand(Command::new("openapi").about("Print the OpenAPI document").arg(
            Arg::new("operations").long("operations").action(ArgAction::SetTrue).help("Print one line an operation"),
        ))
        .subcommand(Command::new("check").about("Validate the configuration and end").args(settings()))
}

/// A flag for every setting that is no secret.
fn settings() -> impl Iterator<Item = Arg> {
    SETTINGS.iter().filter(|setting| setting.visibility == Visibility::Open).map(|setting| {
        let default =
            if setting.default.is_empty() { "" } else { &format!("; default {}", setting.default) };
        Arg::new(setting.name)
            .long(setting.flag())
            .value_name("VALUE")
            .help_heading("Settings")
            .help(format!("{} [{}{default}]", setting.help, setting.name))
    })
}

fn with_config(
    arguments: &ArgMatches,
    then: impl FnOnce(Config, &ArgMatches) -> Result<(), String>,
) -> ExitCode {
    let given = |setting: &Setting| {
        let value = arguments.try_get_one::<String>(setting.name).ok().flatten()?;
        Some((setting.name.to_owned(), value.clone()))
    };
    let flags: BTreeMap<String, String> = SETTINGS.iter().filter_map(given).collect();
    let config = match Config::from_environment(flags) {
        Ok(config) => config,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(USAGE);
        }
    };
    match then(config, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            complain(&sentence);
            ExitCode::FAILURE
        }
    }
}

fn print_token(config: Config, arguments: &ArgMatches) -> Result<(), String> {
    print(&(token::make(&config, arguments)? + "\n"))
}

fn print_openapi(arguments: &ArgMatches) -> ExitCode {
    let text = match arguments.get_flag("operations") {
        true => Ok(openapi::operations_list()),
        false => openapi::text(),
    };
    let text = text.map_err(|error| format!("the document cannot be written: {error}"));
    match text.and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            complain(&sentence);
            ExitCode::FAILURE
        }
    }
}

/// Prints what a command was called for. Nobody may want the rest of it, as behind `| head`;
/// otherwise what is not written is a failure.
fn print(text: &str) -> Result<(), String> {
    match write(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("standard output cannot be written: {error}"))
        }
        _ => Ok(()),
    }
}

/// Says something beside what a command does: it may be lost.
fn say(text: &str) {
    drop(write(text));
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Says why nothing is done; nobody may be able to read that either.
fn complain(sentence: &str) {
    drop(telemetry::Lossy.write_all(format!("herald: {sentence}\n").as_bytes()));
}

fn check(config: &Config) -> Result<(), String> {
    app::check(config).map_err(|error| error.to_string())?;
    say("The configuration is good.\n");
    Ok(())
}

fn migrate(config: &Config) -> Result<(), String> {
    start_logging(config)?;
    actix_web::rt::System::new()
        .block_on(app::migrate(config))
        .map_err(|error| error.to_string())?;
    say("The migrations are applied.\n");
    Ok(())
}

fn serve(config: Config) -> Result<(), String> {
    start_logging(&config)?;
    let shown = config.clone();
    let run = async {
        let (shutdown, reloads) =
            signals::listen().map_err(|error| format!("signals cannot be received: {error}"))?;
        let run = app::run(config, shutdown, reloads, |addresses| greet(&shown, addresses));
        run.await.map_err(|error: StartError| error.to_string())
    };
    actix_web::rt::System::new().block_on(run)
}

fn start_logging(config: &Config) -> Result<(), String> {
    let format = match config.log_format {
        LogFormat::Text => telemetry::LogFormat::Text,
        LogFormat::Json => telemetry::LogFormat::Json,
    };
    let settings = TelemetrySettings { filter: config.log.clone(), format };
    telemetry::init(&settings).map_err(|error| format!("HERALD_LOG cannot be used: {error}"))
}

/// What to open, and a line to paste.
fn greet(config: &Config, addresses: &Addresses) {
    let host = match addresses.client.ip() {
        ip if ip.is_loopback() || ip.is_unspecified() => "localhost".into(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    let url = format!("https://{host}:{}", addresses.client.port());
    let state = if addresses.stands_by { "stands by" } else { "is ready" };
    let mut text = format!("\nHerald {state}.\n\n  Try it     {url}/\n  API        {url}/docs\n");
    text += &format!("  Metrics    http://{}/metrics\n", addresses.metrics);
    if let Some(proxy) = addresses.proxy {
        text += &format!("  Proxies    http://{proxy}\n");
    }
    if config.tls.is_none() {
        let ca = config.data_dir.join("tls/ca.pem");
        text += &format!(
            "  CA         {}  (trust it, or accept your browser's warning)\n",
            ca.display()
        );
    }
    if config.is_development() {
        let line = pasteable(config, &url);
        text += &format!(
            "\nPublish a message to everyone who is connected to the instance demo:\n\n{line}\n\n"
        );
    }
    say(&text);
}

fn pasteable(config: &Config, url: &str) -> String {
    let herald = std::env::args_os().next().unwrap_or_else(|| "herald".into());
    let mut mint = format!("{} token --user me --component shell", quoted(Path::new(&herald)));
    if config.data_dir != Path::new("./data") {
        mint += &format!(" --data-dir {}", quoted(&config.data_dir));
    }
    let ca = match config.tls {
        None => format!(" --cacert {}", quoted(&config.data_dir.join("tls/ca.pem"))),
        Some(_) => String::new(),
    };
    format!(
        "curl{ca} {url}/v1/messages -H 'instance: demo' -H \"authorization: Bearer $({mint})\" \
         -H 'content-type: application/json' -d '{{\"channel\": \"ALL\", \"message\": {{\"hello\": \"world!\"}}}}'"
    )
}

/// A path as a POSIX shell takes it; the quotes are left out where nothing needs them.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c));
    if is_plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed_and_takes_flags_with_and_without_serve() {
        command().debug_assert();
        for line in [vec!["herald", "--listen", "x"], vec!["herald", "serve", "--listen", "x"]] {
            assert!(command().try_get_matches_from(line).is_ok());
        }
        assert!(command().try_get_matches_from(["herald", "serve", "--jwt-secret", "x"]).is_err());
    }

    #[test]
    fn paths_survive_the_shell() {
        assert_eq!(quoted(Path::new("./data")), "./data");
        assert_eq!(quoted(Path::new("my data's")), "'my data'\\''s'");
    }
}
