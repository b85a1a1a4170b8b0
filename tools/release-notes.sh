#!/usr/bin/env bash
# Prints what the page of a release says: its section of the changelog, with links
# that work from anywhere, and how to get it.
#
#	tools/release-notes.sh v0.1.0
set -euo pipefail
cd "$(dirname "$0")/.."

version=$1
module=github.com/metricsgate/metricsgate
tree=https://$module/blob/$version
caddy=$(awk '$1 == "github.com/caddyserver/caddy/v2" { print $2 }' go.mod)

awk -v heading="## [${version#v}]" '/^## / { here = index($0, heading) == 1; next } /^\[[^]]*\]: / { next } here' CHANGELOG.md |
	sed -E "/./,\$!d; s#\]\(([^):]+)\)#]($tree/\1)#g"
cat <<END

### Get it

An archive below holds the program for your machine. [How to install it]($tree/docs/install.md), as a hardened service or in a container. \`sha256sum --check --ignore-missing SHA256SUMS\` says whether all has arrived, and [everybody can build the same archives]($tree/CONTRIBUTING.md#a-release).

Or build Caddy with it, and with other plugins:

\`\`\`sh
xcaddy build $caddy --with $module@$version
\`\`\`
END
