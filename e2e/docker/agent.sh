#!/bin/sh
# Its input is text: how many LLM calls it makes, seconds after each, a name that makes its requests its own, and seconds that its
# first attempt takes beyond that. With the name `eats` the first attempt uses up the memory. ASKS, of its image, is a part of each request.
set -- $(sed -n 's/.*"input" *: *"\([^"]*\)".*/\1/p')
calls=$1 pause=$2 name=$3 beyond=$4 n=0
[ -z "$FAILS" ] || { echo "this release cannot do it" >&2; exit 1; }
while [ "$n" -lt "$calls" ]; do
  n=$((n + 1))
  body="{\"model\":\"sim\",\"messages\":[{\"role\":\"user\",\"content\":\"$ASKS $name $n\"}]}"
  wget -q -O /dev/null --header "Content-Type: application/json" --header "Authorization: Bearer $OPENAI_API_KEY" \
    --post-data "$body" "$OPENAI_BASE_URL/chat/completions" || { echo "call $n failed" >&2; exit 1; }
  echo "{\"longshore\":\"progress\",\"data\":$n}"
  sleep "$pause"
done
if [ -n "$beyond" ] && [ "$LONGSHORE_ATTEMPT" = 1 ]; then sleep "$beyond"; fi
if [ "$name" = eats ] && [ "$LONGSHORE_ATTEMPT" = 1 ]; then exec awk 'BEGIN { s = "x"; while (1) s = s s }'; fi
echo "{\"longshore\":\"result\",\"data\":\"$V\"}"
