#!/bin/sh
# Runs a function file, unchanged, in psql or pgbench. `make explain` and `make pgbench` call it.
# Without Python:  DATABASE_URL=... FUNCTION=inactivity_periods venue_id=1 sh tools/measure.sh explain
#
# Usage: measure.sh explain|pgbench [COMMAND...]
#   COMMAND  a command that sets DATABASE_URL and runs its arguments
# Environment:
#   FUNCTION                         the file's name without .sql
#   venue_id, person_id, timestamp   the values of the file's parameters
#   GENERIC=1                        explain the generic plan
#   OUT=plan.json, PICTURE=plan.html where explain writes the plan
#   seconds, clients                 how long pgbench runs, and how many clients it has
#   API_FUNCTIONS                    folders, separated by commas, that are searched before db/functions
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

# Prints text. On a terminal, lines that are too long are wrapped, and the wrapped part is indented.
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

# the first line of the file names its parameters, in order
parameters=$(sed -n '1s/.*(\(.*\)).*/\1/p' "$file" | tr -d ,)
for name in $parameters; do
    eval "value=\${$name-}"
    case $tool$name=$value in
        pgbench*_id=) ;;
        *_id= | *_id=*[!0-9]*) fail "$FUNCTION needs $name=NUMBER, an integer without a sign" ;;
    esac
done

# COMMAND starts the database, so it runs after the checks above
[ $# -eq 0 ] || exec "$@" sh "$0" "$tool"
: "${DATABASE_URL:?must name the database}"

case $tool in
    explain)
        # psql replaces the placeholders by $1, $2 ... and quotes the values
        number=0
        values=
        shown=
        for name in $parameters; do
            number=$((number + 1))
            eval "value=\${$name-}"
            set -- "$@" -v "$name=\$$number" -v "value_$number=$value"
            values="$values${values:+, }${value:+:'value_$number'}"
            [ -n "$value" ] || values="${values}null"
            shown="$shown $name=${value:-NULL},"
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
        # the tables that the plan reads, from its text or its JSON
        tables=$(printf '%s\n' "$plan" |
            sed -n 's/.* on \([^ ]*\) .*(cost=.*/\1/p; s/.*"Relation Name": "\(.*\)".*/\1/p')
        sizes=$(psql "$DATABASE_URL" -X -q -A -t -v ON_ERROR_STOP=1 -v tables="$tables" -f "$db/table_sizes.sql")
        head="$file,$shown $mode plan
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
        random_ids=
        for name in $parameters; do
            eval "value=\${$name-}"
            case $name=$value in
                *_id=)
                    ids=$(psql "$DATABASE_URL" -X -At -F ', ' \
                        -c "select coalesce(min(id), 1), coalesce(max(id), 1) from ${name%_id}")
                    random_ids="$random_ids\\set $name random($ids)
"
                    ;;
                *) set -- "$@" -D "$name=${value:-now}" ;;
            esac
        done
        measured=$({ printf '%s' "$random_ids"; cat "$file"; } |
            pgbench -n -M prepared -T "${seconds:-5}" -c "${clients:-1}" -j "${clients:-1}" "$@" -f - "$DATABASE_URL")
        printf '%s\n' "$measured" | sed "s|^transaction type: -$|transaction type: $file|"
        ;;
    *) fail 'usage: measure.sh explain|pgbench [COMMAND...]' ;;
esac
