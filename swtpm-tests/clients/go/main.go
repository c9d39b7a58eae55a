// A program that uses its SPIFFE identity through go-spiffe. Same commands and output as hardroot-workload.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func say(fields map[string]any) {
	line, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: client fetch|jwt|watch|serve|call --socket PATH ...")
		os.Exit(2)
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	socket := flags.String("socket", "", "path of the Workload API")
	count := flags.Int("count", 1, "updates to wait for")
	audience := flags.String("audience", "", "whom a JWT-SVID is for")
	listen := flags.String("listen", "", "address to serve on")
	connect := flags.String("connect", "", "address to call")
	expect := flags.String("expect", "", "SPIFFE ID of the peer")
	timeout := flags.Int("timeout", 20, "seconds")
	if err := flags.Parse(os.Args[2:]); err != nil {
		os.Exit(2)
	}
	ctx := context.Background()
	if os.Args[1] != "serve" {
		limited, cancel := context.WithTimeout(ctx, time.Duration(*timeout)*time.Second)
		defer cancel()
		ctx = limited
	}
	address := workloadapi.WithAddr("unix://" + *socket)
	var err error
	switch os.Args[1] {
	case "fetch":
		err = fetch(ctx, address)
	case "jwt":
		err = jwt(ctx, address, *audience)
	case "watch":
		err = watch(ctx, address, *count)
	case "serve":
		err = serve(ctx, address, *listen, *expect)
	case "call":
		err = call(ctx, address, *connect, *expect)
	default:
		err = fmt.Errorf("no command %q", os.Args[1])
	}
	if err != nil {
		say(map[string]any{"error": err.Error()})
		os.Exit(1)
	}
}

func describe(update *workloadapi.X509Context) map[string]any {
	svids := []map[string]any{}
	for _, svid := range update.SVIDs {
		leaf := svid.Certificates[0]
		svids = append(svids, map[string]any{
			"spiffe_id":  svid.ID.String(),
			"hint":       svid.Hint,
			"serial":     leaf.SerialNumber.String(),
			"expires_at": leaf.NotAfter.Unix(),
		})
	}
	return map[string]any{"svids": svids, "bundles": update.Bundles.Len()}
}

func fetch(ctx context.Context, address workloadapi.ClientOption) error {
	update, err := workloadapi.FetchX509Context(ctx, address)
	if err != nil {
		return err
	}
	say(describe(update))
	return nil
}

// Fetches a token and has it validated twice: here with the bundle that the Workload API gives, and by the Workload API.
func jwt(ctx context.Context, address workloadapi.ClientOption, audience string) error {
	svid, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience}, address)
	if err != nil {
		return fmt.Errorf("fetching: %w", err)
	}
	bundles, err := workloadapi.FetchJWTBundles(ctx, address)
	if err != nil {
		return fmt.Errorf("fetching the bundles: %w", err)
	}
	token := svid.Marshal()
	valid, err := jwtsvid.ParseAndValidate(token, bundles, []string{audience})
	if err != nil {
		return fmt.Errorf("validating: %w", err)
	}
	if _, err := jwtsvid.ParseAndValidate(token, bundles, []string{"another"}); err == nil {
		return errors.New("it is for everybody")
	}
	if _, err := workloadapi.ValidateJWTSVID(ctx, token, audience, address); err != nil {
		return fmt.Errorf("having it validated: %w", err)
	}
	if _, err := workloadapi.ValidateJWTSVID(ctx, token, "another", address); err == nil {
		return errors.New("the Workload API says it is for everybody")
	}
	say(map[string]any{"spiffe_id": valid.ID.String(), "audience": valid.Audience})
	return nil
}

type watcher struct {
	left int
	done context.CancelFunc
}

func (w *watcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	if w.left > 0 {
		say(describe(update))
		w.left--
	}
	if w.left == 0 {
		w.done()
	}
}

func (w *watcher) OnX509ContextWatchError(err error) {}

func watch(ctx context.Context, address workloadapi.ClientOption, count int) error {
	ctx, done := context.WithCancel(ctx)
	defer done()
	w := &watcher{left: count, done: done}
	err := workloadapi.WatchX509Context(ctx, w, address)
	if w.left > 0 {
		return fmt.Errorf("%d updates are missing: %w", w.left, err)
	}
	return nil
}

func serve(ctx context.Context, address workloadapi.ClientOption, listen, expect string) error {
	id, err := spiffeid.FromString(expect)
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(address))
	if err != nil {
		return err
	}
	defer source.Close()
	mode := spiffetls.MTLSServerWithSource(tlsconfig.AuthorizeID(id), source)
	listener, err := spiffetls.ListenWithMode(ctx, "tcp", listen, mode)
	if err != nil {
		return err
	}
	say(map[string]any{"listening": listener.Addr().String()})
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			if err := answer(connection); err != nil {
				say(map[string]any{"refused": err.Error()})
			}
		}()
	}
}

func answer(connection net.Conn) error {
	defer connection.Close()
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return err
	}
	peer, err := spiffetls.PeerIDFromConn(connection)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(connection, "%s said: %s", peer, line); err != nil {
		return err
	}
	say(map[string]any{"served": peer.String()})
	return nil
}

func call(ctx context.Context, address workloadapi.ClientOption, connect, expect string) error {
	id, err := spiffeid.FromString(expect)
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(address))
	if err != nil {
		return err
	}
	defer source.Close()
	mode := spiffetls.MTLSClientWithSource(tlsconfig.AuthorizeID(id), source)
	connection, err := spiffetls.DialWithMode(ctx, "tcp", connect, mode)
	if err != nil {
		return err
	}
	defer connection.Close()
	if _, err := io.WriteString(connection, "hello\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	peer, err := spiffetls.PeerIDFromConn(connection)
	if err != nil {
		return err
	}
	say(map[string]any{"peer": peer.String(), "answer": line})
	return nil
}
