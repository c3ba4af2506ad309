#!/bin/sh
# Draws a plan with pev2, in a page that works offline.
#
# Usage: picture.sh plan.json plan.html FILE.sql HEAD
# HEAD is text for the top of the page. The first run downloads pev2 and its libraries with npm into .pev2.
set -eu

plan=$1
page=$2
file=$3
head=$4
parts=$(dirname "$0")/../.pev2

fail() {
    echo "error: cannot draw $page: $*; the plan is in $plan, which other viewers can show" >&2
    exit 1
}

if [ ! -d "$parts" ]; then
    command -v npm >/dev/null || fail 'npm is needed to download pev2 (Debian: apt install npm)'
    new=$(mktemp -d "$parts.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    (cd "$new" && npm pack --ignore-scripts --loglevel error pev2@1.21.0 vue@3.5.45 bootstrap@5.3.9 >/dev/null) ||
        fail 'npm cannot download pev2'
    cat >"$new/hashes" <<END
0c87b6ad9378b5f8aaefb1e7668d78b9e82bb07de08343bff0730ed9c4b50718  pev2-1.21.0.tgz
c2ec36a9b719e4277785f1ad36a1bb0424d8d32f0bea24abcce862e26821d585  vue-3.5.45.tgz
06bdf78289c3c12ea99d40df84eedf6278c724c73eebf38f11f3a65b44ec8c94  bootstrap-5.3.9.tgz
END
    (cd "$new" && { sha256sum -c hashes || shasum -a 256 -c hashes; } >/dev/null 2>&1) ||
        fail 'the downloaded packages do not have the expected hashes'
    for path in bootstrap/css/bootstrap.min.css pev2/pev2.css vue/vue.global.prod.js pev2/pev2.umd.js; do
        tar -xzOf "$new/${path%%/*}"-[0-9]*.tgz "package/dist/${path#*/}" >"$new/${path##*/}"
    done
    rm "$new"/*.tgz "$new/hashes"
    chmod 755 "$new"
    mv "$new" "$parts"
fi

as_text() {
    sed 's/&/\&amp;/g; s/</\&lt;/g'
}

{
    echo '<!doctype html><html lang="en"><meta charset="utf-8">'
    echo "<title>$(basename "$file")</title><style>"
    cat "$parts/bootstrap.min.css" "$parts/pev2.css"
    echo '</style><div id="app" class="d-flex flex-column vh-100"><pre class="m-2" style="white-space: pre-wrap">'
    printf '%s\n' "$head" | as_text
    echo '</pre><pev2 class="flex-grow-1 overflow-hidden" :plan-source="plan" :plan-query="query"></pev2></div>'
    echo '<pre id="plan" hidden>'
    as_text <"$plan"
    echo '</pre><pre id="query" hidden>'
    as_text <"$file"
    echo '</pre><script>'
    cat "$parts/vue.global.prod.js" "$parts/pev2.umd.js"
    echo '</script><script>
const text = (id) => document.getElementById(id).textContent
Vue.createApp({ data: () => ({ plan: text("plan"), query: text("query") }) })
    .component("pev2", pev2.Plan)
    .mount("#app")
</script></html>'
} >"$page"
echo "$page: open it in a browser"
