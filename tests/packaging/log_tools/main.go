// Checks a partition's tree with libraries of others: Go's checksum database (note, tlog) and torchwood (cosignatures).
//
//	log_tools URL TOKEN LOGKEY WITNESSKEY OLD EXPORT
//
// URL is the prefix of a partition's tree. OLD is a former checkpoint, and EXPORT an exported session: files.
package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type tiles struct{ url, token string }

func (t tiles) get(path string) []byte {
	request := must(http.NewRequest("GET", t.url+"/"+path, nil))
	request.Header.Set("Authorization", "Bearer "+t.token)
	response := must(http.DefaultClient.Do(request))
	defer response.Body.Close()
	body := must(io.ReadAll(response.Body))
	if response.StatusCode != 200 {
		log.Fatalf("%s: %s %s", path, response.Status, body)
	}
	return body
}

func (t tiles) Height() int                          { return torchwood.TileHeight }
func (t tiles) SaveTiles(_ []tlog.Tile, _ [][]byte) {}
func (t tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range wanted {
		found = append(found, t.get(torchwood.TilePath(tile)))
	}
	return found, nil
}

type line struct {
	Kind, Hash, Checkpoint string
	Index                  int64
	Path                   []string
}

func main() {
	log.SetFlags(0)
	url, token, logKey, witnessKey := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	signer := must(note.NewVerifier(logKey))
	witness := must(torchwood.NewCosignatureVerifier(witnessKey))
	known := note.VerifierList(signer, witness)
	server := tiles{url, token}

	opened := must(note.Open(server.get("checkpoint"), known))
	if len(opened.Sigs) != 2 {
		log.Fatalf("%d signatures hold, not those of the log and the witness", len(opened.Sigs))
	}
	now := must(torchwood.ParseCheckpoint(opened.Text))
	former := must(torchwood.ParseCheckpoint(must(note.Open(must(os.ReadFile(os.Args[5])), known)).Text))

	// The reader checks each tile against the signed root.
	reader := tlog.TileHashReader(now.Tree, server)
	proof := must(tlog.ProveTree(now.N, former.N, reader))
	check(tlog.CheckTree(proof, now.N, now.Hash, former.N, former.Hash))

	events, inclusions := 0, 0
	var hash []byte
	for scan := bufio.NewScanner(bytes.NewReader(must(os.ReadFile(os.Args[6])))); scan.Scan(); {
		var one line
		check(json.Unmarshal(scan.Bytes(), &one))
		switch one.Kind {
		case "event":
			hash = must(hex.DecodeString(one.Hash))
			events++
		case "inclusion":
			tree := must(torchwood.ParseCheckpoint(must(note.Open([]byte(one.Checkpoint), known)).Text))
			var path tlog.RecordProof
			for _, node := range one.Path {
				path = append(path, tlog.Hash(must(hex.DecodeString(node))))
			}
			leaf := tlog.RecordHash(hash)
			check(tlog.CheckRecord(path, tree.N, tree.Hash, one.Index, leaf))
			check(tlog.CheckRecord(must(tlog.ProveRecord(now.N, one.Index, reader)), now.N, now.Hash, one.Index, leaf))
			inclusions++
		}
	}
	fmt.Printf("%s %d of %d %d %d\n", now.Origin, former.N, now.N, events, inclusions)
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
