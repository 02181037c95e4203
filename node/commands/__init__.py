"""The commands of ``overread``, one module for each group of commands."""
