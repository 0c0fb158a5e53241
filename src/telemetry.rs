//! Log lines on standard error, as text or as JSON, in which no dependency can print a token.

use std::io::{self, IsTerminal, Write};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// The crate whose own lines follow the filter down to `trace`.
const OURS: &str = "herald";

/// Modules of dependencies that say nothing. Two print credentials even at `warn`: sqlx prints a
/// malformed line of `.pgpass` and the value of an unknown parameter of the database URL. actix
/// logs every broken request as an error, which strangers could use to flood the log; Herald counts
/// and answers those itself.
const SILENT: [&str; 2] = ["sqlx_postgres::options", "actix_http::h1::dispatcher"];

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, with the fields of the event and of its spans.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct TelemetrySettings {
    /// Directives as in `info,herald::relay=debug`; empty is `info`. Lines of dependencies stop at
    /// `info` whatever it says.
    pub filter: String,
    /// Text or JSON.
    pub format: LogFormat,
}

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not a list of directives.
    #[error(
        "the log filter `{text}` is not a list of directives such as `info,herald::relay=debug`"
    )]
    Filter {
        /// The filter as given.
        text: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process already has a subscriber.
    #[error("logging is already set up in this process")]
    AlreadySet(#[source] tracing::subscriber::SetGlobalDefaultError),
}

/// Standard error as those see it who must not fail with it: a full disk, a closed pipe or a closed
/// terminal costs what is written, and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Lossy;

impl Write for Lossy {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        drop(io::stderr().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        drop(io::stderr().flush());
        Ok(())
    }
}

/// Sends the log lines of this process to standard error, in colour if that is a terminal. Lines
/// that standard error does not take are lost.
/// Errors: `TelemetryError`, when the filter cannot be read or logging is already set up.
pub fn init(settings: &TelemetrySettings) -> Result<(), TelemetryError> {
    let subscriber = subscriber(settings, || Lossy, io::stderr().is_terminal())?;
    tracing::subscriber::set_global_default(subscriber).map_err(TelemetryError::AlreadySet)
}

/// Reads a filter: directives of the form `target[span{field=value}]=level`, separated by commas.
/// Errors: `TelemetryError::Filter`.
pub fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(text)
        .map_err(|source| TelemetryError::Filter { text: text.to_owned(), source })
}

fn subscriber<W>(
    settings: &TelemetrySettings,
    writer: W,
    ansi: bool,
) -> Result<impl Subscriber + Send + Sync + use<W>, TelemetryError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let harmless = filter_fn(is_harmless).with_max_level_hint(LevelFilter::TRACE);
    let filter = filter(&settings.filter)?.and(harmless);
    // Its own complaints would go to standard error by a macro that panics where that is full.
    let lines = fmt::layer().with_writer(writer).log_internal_errors(false);
    let lines = match settings.format {
        LogFormat::Text => lines.with_ansi(ansi).boxed(),
        LogFormat::Json => {
            lines.with_ansi(false).json().flatten_event(true).with_current_span(false).boxed()
        }
    };
    Ok(tracing_subscriber::registry().with(Layer::<Registry>::with_filter(lines, filter)))
}

/// Whether a line may be written at all. Below `info`, HTTP libraries print URIs and headers, and
/// tokens travel in both.
fn is_harmless(metadata: &Metadata<'_>) -> bool {
    if within(metadata.target(), OURS) {
        return true;
    }
    *metadata.level() <= Level::INFO
        && !SILENT.iter().any(|module| within(metadata.target(), module))
}

/// Whether the target is the module or lies in it; `heraldry` does not lie in `herald`.
fn within(target: &str, module: &str) -> bool {
    target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, format: LogFormat, events: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let settings = TelemetrySettings { filter: filter.to_owned(), format };
        let subscriber = subscriber(&settings, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, events);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn lines_of_dependencies_stop_at_info_whatever_the_filter_says() {
        for filter in [
            "trace",
            "info,herald=trace,actix_http::h1=trace",
            "herald=trace,actix_http=info,[request]=trace",
        ] {
            let lines = logged(filter, LogFormat::Text, || {
                let span = tracing::trace_span!(target: "actix_http::h1", "request", uri = "/?authorization=secret");
                let _entered = span.enter();
                tracing::debug!(target: "actix_http::h1", "GET /?authorization=secret");
                tracing::trace!(target: "heraldry", "secret");
                tracing::warn!(target: "sqlx_postgres::options::pgpass", line = "secret");
                tracing::info!(target: "actix_http::h1", "an ordinary line");
                tracing::trace!(target: "herald::api", "a line of ours");
            });
            assert!(!lines.contains("secret"), "{filter}: {lines}");
            assert!(lines.contains("an ordinary line"), "{filter}: {lines}");
            assert!(lines.contains("a line of ours"), "{filter}: {lines}");
        }
    }

    #[test]
    fn a_filter_can_ask_for_less() {
        let lines = logged("herald=warn,actix_server=error", LogFormat::Text, || {
            tracing::info!(target: "herald::api", "first");
            tracing::warn!(target: "herald", "second");
            tracing::info!(target: "actix_server", "third");
        });
        assert!(
            !lines.contains("first") && lines.contains("second") && !lines.contains("third"),
            "{lines}"
        );
    }

    #[test]
    fn an_empty_filter_is_info() {
        let lines = logged("", LogFormat::Text, || {
            tracing::info!(target: "herald::api", "first");
            tracing::debug!(target: "herald::api", "second");
        });
        assert!(lines.contains("first") && !lines.contains("second"), "{lines}");
    }

    #[test]
    fn json_is_one_object_a_line_with_the_fields_of_the_event_and_its_spans() {
        let lines = logged("info", LogFormat::Json, || {
            let _entered =
                tracing::info_span!(target: "herald::relay", "connection", connection.id = 7)
                    .entered();
            tracing::info!(target: "herald::relay", { channel.name = "news" }, "two\nlines");
        });
        let line: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(lines.lines().count(), 1);
        assert_eq!(line["message"], "two\nlines");
        assert_eq!(line["channel.name"], "news");
        assert_eq!(line["spans"][0]["connection.id"], 7);
        assert_eq!(line["level"], "INFO");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused_with_its_text() {
        let error = filter("herald=loud").unwrap_err();
        assert!(error.to_string().contains("`herald=loud`"), "{error}");
    }
}
