#!/bin/sh
# Runs a function file, unchanged, in PostgreSQL's own tools. `make explain` and `make pgbench` call it.
# Without Python:  DATABASE_URL=... FUNCTION=inactivity_periods venue_id=1 sh db/measure.sh explain
#
# Usage: measure.sh explain|pgbench [COMMAND...]
# COMMAND runs its arguments with DATABASE_URL set. Environment: FUNCTION; a value for each parameter of the
# file (venue_id, person_id, timestamp); GENERIC=1 for explain; seconds and clients for pgbench; API_FUNCTIONS,
# the folders, with commas between them, in which a file is looked for first.
set -eu

tool=$1
shift
folder=$(dirname "$0")/functions
file=$folder/${FUNCTION:=}.sql

fail() {
    echo "error: $*" >&2
    exit 1
}

functions=$(cd "$folder" && ls -- *.sql | sed 's/\.sql$//')
echo "$functions" | grep -qxF -e "$FUNCTION" || fail "FUNCTION must be one of:" $functions

set -f
IFS=,
for folder in ${API_FUNCTIONS-}; do
    if [ -f "$folder/$FUNCTION.sql" ]; then
        file=$folder/$FUNCTION.sql
        break
    fi
done
unset IFS

# the file's first line names its parameters in their order
parameters=$(sed -n '1s/.*(\(.*\)).*/\1/p' "$file" | tr -d ,)
for name in $parameters; do
    eval "value=\${$name-}"
    case $tool$name=$value in
        pgbench*_id=) ;;
        *_id= | *_id=*[!0-9]*) fail "$FUNCTION needs $name=NUMBER, an integer without a sign" ;;
    esac
done

# all is well so far: now the database
[ $# -eq 0 ] || exec "$@" sh "$0" "$tool"
: "${DATABASE_URL:?must name the database}"

case $tool in
    explain)
        # a placeholder becomes $1, $2 ...; psql quotes the values
        place=0
        values=
        for name in $parameters; do
            place=$((place + 1))
            eval "value=\${$name-}"
            set -- "$@" -v "$name=\$$place" -v "value_$place=$value"
            values="$values${values:+, }${value:+:'value_$place'}"
            [ -n "$value" ] || values="${values}null"
        done
        plan=custom
        [ -z "${GENERIC-}" ] || plan=generic
        {
            echo "set default_transaction_read_only = on; set timezone = 'UTC';"
            echo "set plan_cache_mode = force_${plan}_plan;"
            echo 'prepare function_file as'
            cat "$file"
            echo "explain (analyze, buffers, settings) execute function_file ($values);"
        } | psql "$DATABASE_URL" -X -q -v ON_ERROR_STOP=1 -v VERBOSITY=terse "$@"
        ;;
    pgbench)
        chances=
        for name in $parameters; do
            eval "value=\${$name-}"
            case $name=$value in
                *_id=)
                    ids=$(psql "$DATABASE_URL" -X -At -F ', ' \
                        -c "select coalesce(min(id), 1), coalesce(max(id), 1) from ${name%_id}")
                    chances="$chances\\set $name random($ids)
"
                    ;;
                *) set -- "$@" -D "$name=${value:-now}" ;;
            esac
        done
        { printf '%s' "$chances"; cat "$file"; } |
            pgbench -n -M prepared -T "${seconds:-5}" -c "${clients:-1}" -j "${clients:-1}" "$@" -f - "$DATABASE_URL"
        ;;
    *) fail 'usage: measure.sh explain|pgbench [COMMAND...]' ;;
esac
