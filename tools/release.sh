#!/usr/bin/env bash
# Makes dist/: the release of a version. For each platform that is an archive, with
# the binary, the licences of all that is in it, and what docs/install.md installs,
# and a bill of materials (CycloneDX); then the checksums of them all, and
# RELEASE_NOTES.md, for the release's page.
# The same commit and the same Go make the same archives, wherever it runs.
#
#	tools/release.sh v0.1.0
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1-}
platforms=(linux/amd64 linux/arm64 darwin/amd64 darwin/arm64)
module=github.com/metricsgate/metricsgate

fail() {
	echo "tools/release.sh: $*" >&2
	exit 1
}

number='(0|[1-9][0-9]*)'
identifier='(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)'
[[ $version =~ ^v$number\.$number\.$number(-$identifier(\.$identifier)*)?$ ]] ||
	fail "'$version' is not a semantic version; write one such as v0.1.0: make release VERSION=v0.1.0"
for program in git go gzip sha256sum; do
	command -v "$program" >/dev/null || fail "$program is not installed"
done
tar=$(command -v gtar || command -v tar) && "$tar" --version | grep -q 'GNU tar' ||
	fail "GNU tar is needed, since others cannot leave owners and times out of an archive"

changed=$(git status --porcelain)
[ -z "$changed" ] || fail "there are changes that no commit holds, so nobody could build the same; commit or stash them:
$changed"
commit=$(git rev-parse HEAD)
tagged=$(git rev-parse --quiet --verify "refs/tags/$version^{commit}" || true)
[ "${tagged:-$commit}" = "$commit" ] || fail "the tag $version is on ${tagged:0:12}, and this is ${commit:0:12}; check out the tag, or choose another version"
grep -qF "## [${version#v}]" CHANGELOG.md || fail "CHANGELOG.md has no section ## [${version#v}]; write what is new in it"
# A trial needs no tag.
[ -z "$tagged" ] || ! grep -qF "## [${version#v}] - unreleased" CHANGELOG.md ||
	fail "$version is tagged, and CHANGELOG.md calls ${version#v} unreleased; write the day in its place, commit, and move the tag"

# Everything comes from a clone of its own: no file that git ignores gets in, and
# Go reads the version of the main module from the only tag there is.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git -c advice.detachedHead=false clone --quiet --no-tags . "$work/source"
git -C "$work/source" -c advice.detachedHead=false checkout --quiet "$commit"
git -C "$work/source" -c tag.gpgSign=false tag "$version"
time=$(git show --no-patch --format=%ct HEAD)

# What somebody's settings say of building must not show in what is built, and go
# env -w keeps settings as well. Where modules come from is the machine's business.
for setting in GOAUTH GOCACHE GOINSECURE GOMODCACHE GONOPROXY GONOSUMDB GOPRIVATE GOPROXY GOSUMDB GOTOOLCHAIN; do
	export "$setting=$(go env "$setting")"
done
export GOENV=off GOFLAGS= GOWORK=off CGO_ENABLED=0 GOEXPERIMENT= GOFIPS140=off GOAMD64=v1 GOARM64=v8.0
cd "$work/source"
sbom=$work/cyclonedx-gomod
go build -modfile=tools/go.mod -trimpath -buildvcs=false -o "$sbom" github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod

mkdir "$work/dist"
for platform in "${platforms[@]}"; do
	name=metrics-gate_${version#v}_${platform/\//_}
	folder=$work/$name
	mkdir "$folder"
	export GOOS=${platform%/*} GOARCH=${platform#*/}
	go build -trimpath -buildvcs=true -o "$folder/caddy" \
		-ldflags "-s -w -X 'github.com/caddyserver/caddy/v2.CustomVersion=Metrics Gate $version, Caddy'" ./cmd/caddy
	stamped=$(go version -m "$folder/caddy" | awk -v module="$module" '$1 == "mod" && $2 == module { print $3 }')
	[ "$stamped" = "$version" ] || fail "Go takes $stamped for the version, not $version; see go help buildvcs"
	./tools/licences.sh >"$folder/THIRD_PARTY_LICENCES.txt"
	# With examples the demo runs too: ./examples/run.sh. The last three are what the
	# pages have links to besides.
	git archive HEAD LICENSE README.md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md SECURITY.md docs deploy examples Caddyfile.example \
		gate/testdata/preset.schema.json tests/sdks/table.txt tests/spellings/table.txt | "$tar" -C "$folder" -xf -
	"$sbom" app -json -licenses -std -noserial -notimestamp -main cmd/caddy -output "$work/dist/$name.cdx.json" .
	"$tar" --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX-w --mtime="@$time" \
		-C "$work" -cf - "$name" | gzip --no-name --best >"$work/dist/$name.tar.gz"
	echo "built $name"
done
(cd "$work/dist" && sha256sum -- * >SHA256SUMS)
./tools/release-notes.sh "$version" >"$work/dist/RELEASE_NOTES.md"

cd - >/dev/null
rm -rf dist
mv "$work/dist" dist
echo "dist/ is $version of ${commit:0:12}, built by $(go env GOVERSION)"
