//! A token planted everywhere appears nowhere: not in a log at the most verbose level, a metric or an error.
