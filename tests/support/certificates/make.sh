#!/usr/bin/env bash
# Makes the certificates of the tests anew, in this directory: an authority, and three that it has
# signed for service.test, shop.example and 127.0.0.1, each with its key. They last a century, but
# for one that has expired. Needs openssl.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
cd "$made"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

cat >ca.conf <<END
[ca]
default_ca = tests
[tests]
database = index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
organizationName = optional
commonName = supplied
[leaf]
basicConstraints = CA:FALSE
subjectAltName = DNS:service.test, DNS:shop.example, IP:127.0.0.1
authorityKeyIdentifier = keyid
END
touch index

key ca
openssl req -x509 -new -key ca.key -subj '/CN=tests of echod' -days 36500 -out ca.pem \
  -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign'
leaf() {
  key "$1"
  openssl req -new -key "$1.key" -subj "/O=Example/CN=$1" -out "$1.csr"
  openssl ca -batch -notext -config ca.conf -extensions leaf -cert ca.pem -keyfile ca.key \
    -startdate 20200101000000Z -enddate "$2" -in "$1.csr" -out "$1.crt"
  cat "$1.crt" "$1.key" >"$here/$1.pem"
}
leaf one 21200101000000Z
leaf two 21200101000000Z
leaf expired 20210101000000Z
cp ca.pem "$here"
