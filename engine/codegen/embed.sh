#!/bin/sh
# embed.sh HEADER...: print the headers as one C string, for generate.c to put in front of generated code. Includes of our own
# headers are dropped (name the headers in order of dependence), and so are comment lines.
set -eu
echo "// Made by embed.sh from: $*"
echo 'static const char pg_embedded_numerics[] ='
sed -e '/^#include "/d' -e '/^ *\/\//d' -e '/^$/d' -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/.*/    "&\\n"/' "$@"
echo '    "";'
