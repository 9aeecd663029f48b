#!/bin/sh
# An agent: one process per task. The task comes as one line of JSON on standard input; what is printed is the result.
set -eu
name=$(sed -n 's/.*"input": *"\([^"\\]*\)".*/\1/p')
printf 'Hello, %s!\n' "${name:-nobody in particular}"
