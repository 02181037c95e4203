"""The application: configuration, processes, roles, the steps of a study, command line and web."""
