#!/usr/bin/env bash
# A release: ./release.sh VERSION, such as 0.2.0, on a clean checkout whose CHANGELOG.md begins with that version, "not
# yet released". It dates the changelog, sets the version in jaxnas/__init__.py and CITATION.cff, builds a wheel in
# dist/, tries one in an environment of its own, commits and tags. Nothing is pushed or uploaded: it says at the end how.
# What it changed is undone if anything fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

stop() { echo "release.sh: $1" >&2; exit 2; }

version="${1:-}"
[[ "$version" =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || stop "which version? ./release.sh 0.2.0"
[[ -z "$(git status --porcelain)" ]] || stop "the checkout has changes; commit or remove them first."
! git rev-parse -q --verify "refs/tags/v$version" > /dev/null || stop "there is a tag v$version already."
newest="$(sed -n 's/^## //p' CHANGELOG.md | head -1)"
[[ "$newest" == "$version (not yet released)" ]] \
    || stop "CHANGELOG.md begins with '$newest', expected '$version (not yet released)'."

trap 'git checkout -q -- CHANGELOG.md CITATION.cff jaxnas/__init__.py' ERR
today="$(date +%Y-%m-%d)"
sed -i.old "s/^## $version (not yet released)\$/## $version ($today)/" CHANGELOG.md
sed -i.old "s/^__version__ = \"[^\"]*\"/__version__ = \"$version\"/" jaxnas/__init__.py
sed -i.old -e "s/^version: .*/version: $version/" -e '/^date-released: /d' CITATION.cff
echo "date-released: $today" >> CITATION.cff
rm -f CHANGELOG.md.old jaxnas/__init__.py.old CITATION.cff.old

rm -rf build dist
python -m pip wheel --quiet --no-deps --wheel-dir dist .
rm -rf build
if [[ -z "${RELEASE_WITHOUT_TRIAL:-}" ]]; then
    python -m pytest -q tests/test_wheel.py
fi

git add CHANGELOG.md CITATION.cff jaxnas/__init__.py
git commit -q -m "Version $version"
trap - ERR
git tag -a "v$version" -m "jaxnas $version"
echo "made: dist/$(cd dist && echo *)"
echo "to publish: git push origin HEAD v$version && twine upload dist/*"
