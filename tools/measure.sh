#!/bin/sh
# Runs a function file, unchanged, in PostgreSQL's own tools. `make explain` and `make pgbench` call it.
# Without Python:  DATABASE_URL=... FUNCTION=inactivity_periods venue_id=1 sh tools/measure.sh explain
#
# Usage: measure.sh explain|pgbench [COMMAND...]
# COMMAND runs its arguments with DATABASE_URL set. Environment: FUNCTION; a value for each parameter of the
# file (venue_id, person_id, timestamp); for explain, GENERIC=1, and OUT=plan.json or PICTURE=plan.html for the
# plan in a file; seconds and clients for pgbench; API_FUNCTIONS, the folders, with commas between them, in which a
# file is looked for first.
set -eu

tool=$1
shift
here=$(dirname "$0")
db=$(dirname "$here")/db
db=${db#./}
folder=$db/functions
file=$folder/${FUNCTION:=}.sql

fail() {
    echo "error: $*" >&2
    exit 1
}

# prints text, on a terminal in lines no wider than that: what follows a break is indented
show() {
    width=0
    [ ! -t 1 ] || { width=$(stty size <&3 | cut -d ' ' -f 2); } 3>&1
    printf '%s\n' "$1" | awk -v width="$width" '
        {
            match($0, /^ *(-> *)?/)
            indent = RLENGTH + 4 < width / 2 ? RLENGTH + 4 : int(width / 2)
            while (width >= 40 && length($0) > width) {
                end = width
                while (end > indent && substr($0, end + 1, 1) != " ") end--
                if (end <= indent) end = width
                print substr($0, 1, end)
                $0 = sprintf("%" indent "s", "") substr($0, end + 1 + (substr($0, end + 1, 1) == " "))
            }
            print
        }'
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
        told=
        for name in $parameters; do
            place=$((place + 1))
            eval "value=\${$name-}"
            set -- "$@" -v "$name=\$$place" -v "value_$place=$value"
            values="$values${values:+, }${value:+:'value_$place'}"
            [ -n "$value" ] || values="${values}null"
            told="$told $name=${value:-NULL},"
        done
        mode=custom
        [ -z "${GENERIC-}" ] || mode=generic
        json=${OUT:-${PICTURE:+${PICTURE%.html}.json}}
        plan=$({
            echo "set default_transaction_read_only = on; set timezone = 'UTC';"
            echo "set plan_cache_mode = force_${mode}_plan;"
            echo 'prepare function_file as'
            cat "$file"
            echo "explain (analyze, buffers, settings${json:+, format json}) execute function_file ($values);"
        } | psql "$DATABASE_URL" -X -q -A -t -v ON_ERROR_STOP=1 -v VERBOSITY=terse "$@")
        # a node's line or its JSON names the table
        tables=$(printf '%s\n' "$plan" |
            sed -n 's/.* on \([^ ]*\) .*(cost=.*/\1/p; s/.*"Relation Name": "\(.*\)".*/\1/p')
        sizes=$(psql "$DATABASE_URL" -X -q -A -t -v ON_ERROR_STOP=1 -v tables="$tables" -f "$db/table_sizes.sql")
        head="$file,$told $mode plan
$sizes"
        if [ -z "$json" ]; then
            show "$head

$plan"
        else
            show "$head"
            printf '%s\n' "$plan" >"$json"
            [ -z "${PICTURE-}" ] || sh "$here/picture.sh" "$json" "$PICTURE" "$file" "$head"
        fi
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
        measured=$({ printf '%s' "$chances"; cat "$file"; } |
            pgbench -n -M prepared -T "${seconds:-5}" -c "${clients:-1}" -j "${clients:-1}" "$@" -f - "$DATABASE_URL")
        printf '%s\n' "$measured" | sed "s|^transaction type: -$|transaction type: $file|"
        ;;
    *) fail 'usage: measure.sh explain|pgbench [COMMAND...]' ;;
esac
