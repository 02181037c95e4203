"""The application: configuration, processes, pipeline, command line and web."""
